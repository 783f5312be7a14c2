"""Goal: any CSV with a ``page`` column is read; what is wrong is said in one line.

Method: files as users have them, through ``load`` and through the command.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.public.errors import ConfigError
from memcoord.__main__ import main
from memcoord.simulation.caches.trace import Trace, load, trace_of
from memcoord.testbed.traces.table import Table

FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=6)
ROWS = st.lists(st.tuples(st.integers(0, 2**64 - 1), FIELD, FIELD), min_size=1, max_size=30)
LOOP = "page\n" + "1\n2\n3\n" * 5


def parse(name: str, data: bytes) -> Trace:
    return trace_of(Table(name, data, "trace"))


def memcoord_sim(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["memcoord", "sim", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


@given(ROWS, st.integers(0, 2), st.sampled_from(["\n", "\r\n"]))
def test_any_csv_that_python_writes_is_read(
    rows: list[tuple[int, str, str]], column: int, end: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end)
    header = ["a", "b"]
    header.insert(column, "page")
    writer.writerow(header)
    for page, left, right in rows:
        fields: list[object] = [left, right]
        fields.insert(column, page)
        writer.writerow(fields)
    trace = parse("rows", text.getvalue().encode())
    assert trace.ids.tolist() == [page for page, _, _ in rows]
    assert [trace.pages.tolist().index(page) for page in range(trace.page_count)] == sorted(
        {trace.ids.tolist().index(page) for page in trace.ids.tolist()}
    )


@pytest.mark.parametrize(
    "text",
    [
        "page\n7\n7\n",
        "page\n7\n7",
        "\ufeffpage\r\n7\r\n\r\n7\r\n",
        't, page ,"a,b"\n1, 7 ,x\n2,"7","1,2\n3"\n',
        "page,page\n7,x\n007,y",
    ],
)
def test_these_are_two_references_to_page_seven(text: str) -> None:
    trace = parse("seven", text.encode())
    assert (trace.ids.tolist(), trace.pages.tolist(), trace.page_count) == ([7, 7], [0, 0], 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no column 'page', but nothing"),
        ("pages,t\n1,2\n", "names no column 'page', but 'pages,t'"),
        ("\x1b[2J,x\n1,2\n", "names no column 'page', but '\\x1b[2J,x'"),
        ("page\r1\r2\r", "its first line is none of a CSV file"),
        ("page\n", "no rows"),
        ("page\n\n\n", "no rows"),
        ("page\n1\nx\n", "line 3: 'x' has no page"),
        ("page\n1\n-1\n", "line 3: '-1' has no page"),
        ("page\n1.0\n", "line 2"),
        ("page\n1e3\n", "line 2"),
        ("page\n1 2\n", "line 2"),
        ("a,page\n1,2\n1\n", "line 3: '1' has no page"),
        ("a,page\n1,\n", "line 2"),
        ("t,page\n1,2\n2,x\n", "3: '2,x' has no page of 0 to 2**64 - 1 in its column 'page'"),
        (f"page\n{2**64 - 1}\n{2**64}\n", "line 3"),
        ("page\n0x\n", "line 2"),
        ("page\n00x1\n", "line 2"),
        ("page\n0x1g\n", "line 2"),
        ("page\n" + "9" * 30, "line 2"),
        (f"page\n{2**64}\n", "line 2"),
        (f"page\n{2**64 + 5}\n", "line 2"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse("file.csv", text.encode())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_xz_and_zst_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    file = tmp_path / "trace"
    packed = zstandard.ZstdCompressor().compress(LOOP.encode())
    more = zstandard.ZstdCompressor().compress(b"4\n")
    for data, pages in (
        (LOOP.encode(), 3),
        (lzma.compress(LOOP.encode()), 3),
        (packed, 3),
        (packed + more, 4),
    ):
        file.write_bytes(data)
        assert load(str(file)).page_count == pages


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    file = tmp_path / "trace"
    xz, zst = lzma.compress(LOOP.encode()), zstandard.ZstdCompressor().compress(LOOP.encode())
    for data in (xz[:-9], zst[:-2], zst + b"rest", zst[:9] + b"\xff" * 9 + zst[18:]):
        file.write_bytes(data)
        with pytest.raises(ConfigError, match="damaged"):
            load(str(file))


def test_zst_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "trace.zst"
    file.write_bytes(b"(\xb5/\xfd....")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigError, match=r"pip install 'memcoord\[zst\]'"):
        load(str(file))


def test_the_command_answers_with_the_points_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "loop.csv"
    file.write_text(LOOP)
    code, out, err = memcoord_sim(
        monkeypatch, capsys, "--trace", str(file), "--cache-pages", "3,2,0", "--json"
    )
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["points"] == [
        {"cache_pages": 3, "misses": 3},
        {"cache_pages": 2, "misses": 15},
        {"cache_pages": 0, "misses": 15},
    ]
    assert (result["references"], result["stands_for"], result["pages"]) == (15, 15, 3)
    code, out, _ = memcoord_sim(
        monkeypatch, capsys, "--trace", str(file), "--mrc", "--shards", "1", "--json"
    )
    result = json.loads(out)
    assert result["curve"] == result["shards"]["curve"] == [15, 15, 15, 3]
    assert result["shards"]["mean_absolute_error"] == 0


def test_other_replacements_are_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "t.csv"
    file.write_text("page\n1\n2\n3\n3\n2\n1\n4\n1\n")
    misses = []
    for kind in ("lru", "second-chance", "clock", "fifo"):
        arguments = ("--trace", str(file), "--cache-pages", "3", "--json", "--replacement", kind)
        misses.append(
            json.loads(memcoord_sim(monkeypatch, capsys, *arguments)[1])["points"][0]["misses"]
        )
    assert misses == [4, 5, 5, 5]  # only LRU knows that 1 was last of the three


def test_without_json_it_is_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = memcoord_sim(
        monkeypatch, capsys, "--trace", "sqlite", "--mrc", "--shards", "0.5"
    )
    assert code == 0
    assert "8,395 references to 1,049 pages" in out
    assert "whose rows stand for 170,000,001 references" in out
    assert "mean absolute error" in out
    assert "half of all possible hits" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trace", "nowhere.csv"], "nowhere.csv: No such file"),
        (["--trace", "."], "directory"),
        (["--trace", "sqlite", "--cache-pages", "10,x"], "--cache-pages"),
        (["--trace", "sqlite", "--cache-pages", "-5"], "--cache-pages"),
        (["--trace", "sqlite", "--cache-pages", "9" * 20], "--cache-pages"),
        (["--trace", "sqlite", "--shards", "2"], "--shards"),
        (["--trace", "sqlite", "--policy", "greedy"], "--trace"),
        (["--trace", "sqlite", "--seed", "1"], "--trace"),
        (["--trace", "sqlite", "--replacement", "arc"], "none of lru, fifo, clock"),
        (["--trace", "sqlite", "--format", "txt"], "--format: must be one of"),
        (["--trace", "sqlite", "--columns", "pgae=1"], "--columns: 'pgae' is no column of ours"),
        (["--trace", "sqlite", "--columns", "page="], "--columns: page = ''"),
        (["--trace", "sqlite", "--columns", "page=1,page=2"], "--columns: page is given twice"),
        (["--trace", "sqlite", "--page-size", "4 kB"], "--page-size"),
        (["--trace", "sqlite", "--format", "vscsi", "--page-size", "4096"], "--page-size: vscsi"),
        (
            ["--trace", "sqlite", "--format", "lackey", "--columns", "1"],
            "--columns: rows of lackey",
        ),
        (["--format", "lackey"], "--trace"),
        (["--cache-pages", "10"], "--trace"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    code, out, err = memcoord_sim(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
