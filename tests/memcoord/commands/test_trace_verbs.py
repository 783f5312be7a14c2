"""Goal: ``memcoord trace`` makes traces of one's own that everything reads, and exact ones.

Method: import of every form; the shorter trace against the whole one, by plain LRU; recording with
a program in valgrind's place, and with valgrind where it is installed.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections import OrderedDict
from functools import reduce
from operator import or_
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_texts import FORMS, ROWS

from memcoord.__main__ import main
from memcoord.testbed.scenarios.sizes import Size
from memcoord.testbed.scenarios.workloads import PageTraceWorkload
from memcoord.testbed.streams import stream_of
from memcoord.testbed.traces.converted import convert
from memcoord.testbed.traces.table import Table

PAGES = [page for page, _ in ROWS]
DENSE = [sorted({*PAGES}, key=PAGES.index).index(page) for page in PAGES]
WRITES = [int(op == "w") for _, op in ROWS]
#: A tracer that writes 3,000 references to 3 pages and then what it was given.
FAKE = """#!{python}
import os, sys
fd = next(int(word.split("=")[1]) for word in sys.argv if word.startswith("--log-fd="))
assert "--tool=lackey" in sys.argv and "--trace-mem=yes" in sys.argv
log = os.fdopen(fd, "w")
log.write("==1== Lackey\\n")
log.write("I  00401000,3\\n S 1ffe000,8\\n L 00502008,8\\n" * 1000)
log.flush()
os.execvp(sys.argv[-2], sys.argv[-2:])
"""


def memcoord(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["memcoord", "trace", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capfd.readouterr()
    return int(caught.value.code or 0), out, err


def plain_lru(pages: list[int], size: int) -> int:
    cache: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for page in pages:
        misses += page not in cache
        cache[page] = None
        cache.move_to_end(page)
        if len(cache) > size:
            cache.popitem(last=False)
    return misses


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.xz"])
@pytest.mark.parametrize("what", ["csv, another name", "vscsi", "lackey"])
def test_an_imported_trace_is_one_of_ours(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    what: str,
    suffix: str,
) -> None:
    name, data, form = FORMS[what]
    (tmp_path / name).write_bytes(data)
    out = tmp_path / f"mine{suffix}"
    columns = ",".join(f"{key}={value}" for key, value in form.columns.items())
    arguments = (str(tmp_path / name), "--columns", columns, "-o", str(out), "--json")
    code, told, _ = memcoord(monkeypatch, capfd, "import", *arguments)
    assert (code, json.loads(told)) == (
        0,
        {"path": str(out), "references": len(ROWS), "rows": len(ROWS), "pages": len({*PAGES})},
    )
    stream = stream_of(PageTraceWorkload(str(out), Size(1 << 20)), 1)
    assert (stream.pages.tolist(), stream.writes.tolist()) == (DENSE, WRITES)
    assert {path.name for path in tmp_path.iterdir()} == {name, out.name}


references = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=200)


@given(references, st.integers(1, 14))
def test_a_shorter_trace_has_the_same_misses_from_its_size_on(
    rows: list[tuple[int, int]], exact_from: int
) -> None:
    text = "page,dt,flags\n" + "".join(f"{page},1,{flags}\n" for page, flags in rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "short.csv"
        table = Table("long", text.encode(), "trace")
        done = convert(table, path, phase_pages=exact_from)
        lines = path.read_text(encoding="ascii").splitlines()
    short = [tuple(map(int, line.split(","))) for line in lines[1:]]
    order = [*dict.fromkeys(page for page, _ in rows)]
    whole = [order.index(page) for page, _ in rows]
    flags = [flag for _, flag in rows]
    assert (done.references, done.rows, done.pages) == (len(rows), len(short), len(order))
    assert sum(dt for _, dt, _ in short) == len(rows)
    for size in range(exact_from, 15):
        assert plain_lru([page for page, _, _ in short], size) == plain_lru(whole, size)
    for page in range(len(order)):
        kept = {flag for at, _, flag in short if at == page}
        every = {flag for at, flag in zip(whole, flags, strict=True) if at == page}
        assert reduce(or_, kept) == reduce(or_, every)


def test_phases_go_on_from_block_to_block(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from memcoord.testbed.traces import unpacked

    text = "page\n" + "".join(f"{n * n % 23}\n" for n in range(500))
    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    convert(Table("t", text.encode(), "trace"), whole, phase_pages=5)
    monkeypatch.setattr(unpacked, "BLOCK_BYTES", 3)
    convert(Table("t", text.encode(), "trace"), cut, phase_pages=5)
    assert cut.read_bytes() == whole.read_bytes()


def test_an_import_that_fails_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("1\n" * 100 + "x\n")
    code, _, err = memcoord(
        monkeypatch, capfd, "import", str(file), "-o", str(tmp_path / "out.csv")
    )
    assert (code, err.count("\n")) == (2, 1)
    assert "a.txt: line 101: 'x'" in err
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "a.txt", "-o", "a.txt"], "must end in .csv"),
        (["import", "a.csv", "-o", "a.csv"], "is the file itself"),
        (["import", "a.txt", "-o", "nowhere/b.csv"], "no folder 'nowhere'"),
        (["import", "nothing.txt"], "nothing.txt: No such file"),
        (["import", "a.txt", "--exact-from", "-1"], "--exact-from"),
        (["import", "a.txt", "--format", "parquet"], "must be one of"),
        (["record", "--", "no-such-program"], "no-such-program: not found"),
        (["record", "-o", "a.parquet", "true"], "must end in .csv"),
    ],
)
def test_mistakes_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    said: str,
) -> None:
    fake_valgrind(monkeypatch, tmp_path / "bin")
    for name in ("a.txt", "a.csv"):
        (tmp_path / name).write_text("1\n2\n")
    monkeypatch.chdir(tmp_path)
    code, out, err = memcoord(monkeypatch, capfd, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def fake_valgrind(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.mkdir()
    program = folder / "valgrind"
    program.write_text(FAKE.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_without_valgrind_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = memcoord(monkeypatch, capfd, "record", "--", "true")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "apt install valgrind" in err


@pytest.mark.process
def test_a_program_is_recorded(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fake_valgrind(monkeypatch, tmp_path / "bin")
    out = tmp_path / "mine.csv"
    arguments = ("record", "-o", str(out), "--exact-from", "2", "--json", "--", "echo", "hello")
    code, told, err = memcoord(monkeypatch, capfd, *arguments)
    assert (code, err) == (0, "hello\n")
    result = json.loads(told)
    assert (result["references"], result["pages"], result["exit_code"]) == (3000, 3, 0)
    stream = stream_of(PageTraceWorkload(str(out), Size(1 << 20), program_file=True), 1)
    assert plain_lru(stream.pages.tolist(), 2) == 3000
    assert stream.program.tolist() == [True, False, False]


@pytest.mark.process
def test_a_program_that_goes_on_is_ended(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fake_valgrind(monkeypatch, tmp_path / "bin")
    arguments = ("-o", str(tmp_path / "mine.csv"), "--references", "1200", "--", "sleep", "600")
    code, told, _ = memcoord(monkeypatch, capfd, "record", *arguments)
    assert code == 0
    assert "1,200 references to 3 pages" in told
    assert "ended after 1,200 references" in told


@pytest.mark.process
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_valgrind_records_a_real_program(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "true.csv.xz"
    code, told, _ = memcoord(
        monkeypatch, capfd, "record", "-o", str(out), "--json", "--references", "50000", "true"
    )
    result = json.loads(told)
    assert (code, result["references"], result["complete"]) == (0, 50_000, False)
    stream = stream_of(PageTraceWorkload(str(out), Size(1 << 20), program_file=True), 1)
    assert 0 < result["rows"] == len(stream) < 50_000
    assert stream.program.any()
    assert stream.writes.any()
