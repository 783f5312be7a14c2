"""Goal: a trace means the same in every form, and what is wrong with one is said with its place.

Method: the same rows in every form and packing, through the workloads and ``sim --trace``; files
that are cut anywhere; arbitrary bytes.
"""

from __future__ import annotations

import sys
import tomllib
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_texts import FORMS, LACKEY, ORACLE, PACKERS, PERF, ROWS, VSCSI, WITH_WRITES

from hypervisor.public.errors import ConfigError
from memcoord.simulation.caches import fifo, lru
from memcoord.simulation.caches.trace import load
from memcoord.simulation.world import simulate
from memcoord.testbed.scenarios import schema
from memcoord.testbed.scenarios.sizes import Size
from memcoord.testbed.scenarios.trace_files import TraceForm
from memcoord.testbed.scenarios.workloads import BlockTraceWorkload, PageTraceWorkload
from memcoord.testbed.streams import references, stream_of
from memcoord.testbed.traces import unpacked
from memcoord.testbed.traces._table import ffi, lib
from memcoord.testbed.traces.table import Table, read_table

R = Size(1 << 20)
PAGES = [page for page, _ in ROWS]
DENSE = [sorted({*PAGES}, key=PAGES.index).index(page) for page in PAGES]
WRITES = [int(op == "w") for _, op in ROWS]
HELD_BYTES_MAX = 4 << 20
#: Of the file that is the same in four forms, by cache size.
REAL_LRU = {10: 18559, 100: 16599, 500: 15574, 1000: 15529, 2000: 15495, 4000: 15455}
REAL_FIFO = {10: 18596, 100: 16958, 500: 15839, 1000: 15685, 2000: 15582, 4000: 15483}


def keys_of(form: TraceForm) -> dict[str, Any]:
    return {name: getattr(form, name) for name in TraceForm.__struct_fields__}


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("what", FORMS)
def test_a_trace_is_the_same_in_every_form(tmp_path: Path, what: str, packed: str) -> None:
    name, data, form = FORMS[what]
    file = tmp_path / (name + packed)
    file.write_bytes(PACKERS[packed](data))
    trace = load(str(file), form)
    assert (trace.ids.tolist(), trace.pages.tolist()) == (PAGES, DENSE)
    blocks = stream_of(BlockTraceWorkload(str(file), R, **keys_of(form)), 1)
    assert (blocks.pages.tolist(), blocks.writes.any()) == (DENSE, False)
    assert (blocks.page_count, blocks.program.all()) == (len({*PAGES}), True)
    pages = stream_of(PageTraceWorkload(str(file), R, **keys_of(form)), 1)
    assert pages.pages.tolist() == DENSE
    assert pages.writes.tolist() == (WRITES if what in WITH_WRITES else [0] * len(ROWS))


def test_zst_is_read_in_every_form(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    for name, data, form in FORMS.values():
        file = tmp_path / f"{name}.zst"
        file.write_bytes(zstandard.ZstdCompressor().compress(data))
        assert load(str(file), form).ids.tolist() == PAGES


@pytest.mark.parametrize("block_bytes", [1, 7, 33])
@pytest.mark.parametrize("what", FORMS)
def test_how_a_file_is_cut_into_blocks_says_nothing(
    monkeypatch: pytest.MonkeyPatch, what: str, block_bytes: int
) -> None:
    monkeypatch.setattr(unpacked, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(references, "HELD_REFERENCES", 2)
    name, data, form = FORMS[what]
    table = Table(name, data, "trace", form)
    assert table.column("page").tolist() == PAGES
    assert table.column("page", most=3).tolist() == PAGES[:3]
    assert Table(name, data[:-1], "trace", form).format == table.format


def test_a_workload_with_columns_can_be_simulated(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("n,id,op\n" + "".join(f"{n},{n * 7 % 40},{n % 2}\n" for n in range(400)))
    work = f'file = "{file}", columns = {{ page = "id" }}, resident = "64 KiB"'
    scenario = schema.parse(
        tomllib.loads(
            f"""
            name = "own"
            memory = "12 MiB"
            [[domain]]
            name = "vm1"
            maxmem = "4 MiB"
            ram = "2 MiB"
            workload = {{ kind = "block-trace", {work} }}
            """
        )
    )
    (result,) = simulate(scenario, "greedy").domains
    assert (result.workload, result.references, result.state) == ("mine.csv", 400, "done")


def test_what_fetches_and_never_writes_is_the_program(tmp_path: Path) -> None:
    file = tmp_path / "lackey.out"
    file.write_text("I  04001000,3\n L 1ffe000,8\n M 5001000,4\nI  04001003,3\nI  05001000,3\n")
    stream = stream_of(PageTraceWorkload(str(file), R, program_file=True), 1)
    assert stream.pages.tolist() == [0, 1, 2, 0, 2]
    assert stream.writes.tolist() == [0, 0, 1, 0, 0]
    assert stream.program.tolist() == [True, False, False]


WRONG: dict[str, tuple[str, bytes, TraceForm, str]] = {
    "no page": ("a.csv", b"time,id\n1,2\n", TraceForm(), "no column 'page', but 'time,id'"),
    "how to say it": ("a.csv", b"time,id\n1,2\n", TraceForm(), "columns page=NAME"),
    "no such column": (
        *("a.csv", b"time,id\n1,2\n", TraceForm(columns={"page": "lbn"})),
        "its first line names no column 'lbn', but 'time,id'",
    ),
    "no such number": (
        *("a.csv", b"time,id\n1,2\n", TraceForm(columns={"page": 3})),
        "its first line names no column 3",
    ),
    "a word": (
        *("a.csv", b"t,id\n1,2\n\n3,x\n", TraceForm(columns={"page": "id"})),
        "line 4: '3,x' has no page of 0 to 2**64 - 1 in its column 'id'",
    ),
    "no operation": (
        *("a.csv", b"t,page,op\n1,2,r\n1,3,erase\n", TraceForm(columns={"op": "op"})),
        "line 3: '1,3,erase' has no read or write in its column 'op', as r, w",
    ),
    "which column": ("a.txt", b"1 2\n", TraceForm(), "2 columns, without names: say which"),
    "too far": (
        *("a.txt", b"1 2\n", TraceForm(columns={"page": 3})),
        "page = 3 must be a number of 1 to 2",
    ),
    "text in hexadecimal": ("a.txt", b"# x\n12\n1f\n", TraceForm(), "line 3: '1f' has no page"),
    "not in hexadecimal": (
        *("a.txt", b"12\n1g\n", TraceForm(hexadecimal=True)),
        "line 2: '1g' has no page of 0 to 2**64 - 1 in hexadecimal digits",
    ),
    "cut oracle": ("a.oracleGeneral", ORACLE[:-5], TraceForm(), "row 7: the file ends with 19 by"),
    "cut vscsi": ("a.vscsi", VSCSI[:-1], TraceForm(), "row 7: the file ends with 31 bytes"),
    "oracle as vscsi": (
        *("a.bin", ORACLE[: 24 * 4], TraceForm(format="vscsi")),
        "row 1: its column 'version'",
    ),
    "bytes": ("a.bin", ORACLE, TraceForm(), "name its format, oracleGeneral or vscsi"),
    "no lackey": (
        *("a.out", LACKEY + b" L 1ffe000\n", TraceForm()),
        "line 11: 'L 1ffe000' is no line of lackey's: expected 'I  ADDRESS,SIZE', ' L",
    ),
    "no operation of lackey": ("a.out", LACKEY + b" X 1f,8\n", TraceForm(), "line 11"),
    "no size": ("a.out", LACKEY + b" L 1f,\n", TraceForm(), "line 11"),
    "long address": ("a.out", b" L " + b"1" * 17 + b",8\n", TraceForm(format="lackey"), "line 1"),
    "no perf": ("a.out", PERF + b"sort 1 5.1: 1 mem: x\n", TraceForm(), "line 10"),
    "no address": (
        *("a.perf", PERF + b"sort 1 5.1: 1 cycles: \n", TraceForm()),
        "has no address of data: expected what 'perf script -F time,event,addr'",
    ),
    "code": (
        *("a.perf", b"sort 1 5.1: 1 cycles: 55d0c8f0a1b3 main+0x13 (/bin/x)\n", TraceForm()),
        "line 1: 'sort 1 5.1: 1 cycles: 55d0c8f0a1b3 main+' has no address of data",
    ),
    "nothing": ("a.txt", b"", TraceForm(format="text"), "no rows"),
    "only messages": ("a.out", b"==1== Lackey\n", TraceForm(format="lackey"), "no rows"),
    "damaged": ("a.gz", b"\x1f\x8b\x08" + b"x" * 30, TraceForm(), "damaged"),
    "cut gz": ("a.gz", PACKERS[".gz"](LACKEY)[:-9], TraceForm(), "damaged"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, what: str) -> None:
    name, data, form, said = WRONG[what]
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        [*read_table(str(file), "trace", form).references()]
    assert caught.value.why.startswith(f"{name}: ")
    assert said in caught.value.why
    assert "\n" not in caught.value.why


@given(
    st.binary(max_size=200) | st.text("IL SM=0aAx,:.1|#\n\r\t", max_size=200).map(str.encode),
    st.booleans(),
    st.sampled_from([lib.MC_TABLE_DECIMAL, lib.MC_TABLE_HEXADECIMAL, lib.MC_TABLE_OPERATION]),
    st.sampled_from(list(", ;")),
    st.integers(0, 3),
    st.integers(0, 2**64 - 1),
    st.integers(0, 9),
)
def test_no_bytes_make_a_reader_leave_its_memory(
    data: bytes, is_last: bool, kind: int, separator: str, column: int, highest: int, most: int
) -> None:
    part = ffi.new("struct mc_table_part *")
    held = ffi.from_buffer("uint8_t[]", data)
    part.data, part.length, part.is_last = held, len(data), is_last
    part.separator, part.comments = ord(separator), is_last
    ended = ffi.new("uint64_t *")
    outs = [np.full(most + 1, 7, np.uint64) for _ in range(2)]
    one, other = (ffi.from_buffer("uint64_t[]", out) for out in outs)
    for read in (
        lib.mc_table_column(part, column, kind, highest, one, most, ended),
        lib.mc_tracer_lackey(part, one, other, most, ended),
        lib.mc_tracer_perf(part, one, other, most, ended),
    ):
        assert -(data.count(b"\n") + 1) <= read <= most
        assert ended[0] <= len(data)
        assert (outs[0][most], outs[1][most]) == (7, 7)
    read = lib.mc_table_column(part, column, kind, highest, one, most, ended)
    if kind != lib.MC_TABLE_OPERATION:
        assert all(number <= highest for number in outs[0][: max(read, 0)].tolist())


@pytest.mark.parametrize("what", ["csv, another name", "vscsi", "lackey", "perf"])
def test_a_long_file_is_never_held(tmp_path: Path, what: str) -> None:
    """Goal: of any form, only a block is in memory. Method: 30 MB, read once."""
    name, data, form = FORMS[what]
    first, _, rows = data.partition(b"\n") if what.startswith("csv") else (b"", b"", data)
    file = tmp_path / name
    with file.open("wb") as out:
        out.write(first + b"\n" if first else b"")
        for _ in range(30):
            out.write(rows * ((1 << 20) // len(rows)))
    tracemalloc.start()
    try:
        table = Table(name, unpacked.blocks_of_file(str(file), "trace"), "trace", form)
        count = sum(len(pages) for pages, _ in table.references())
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 30 * ((1 << 20) // len(rows)) * len(ROWS)
    assert peak_bytes < HELD_BYTES_MAX


def test_gzip_needs_no_package_and_zst_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "a.gz").write_bytes(PACKERS[".gz"](LACKEY))
    assert load(str(tmp_path / "a.gz")).ids.tolist() == PAGES
    (tmp_path / "a.zst").write_bytes(b"(\xb5/\xfd....")
    with pytest.raises(ConfigError, match=r"pip install 'memcoord\[zst\]'"):
        load(str(tmp_path / "a.zst"))


@pytest.mark.parametrize(
    ("file", "form"),
    [
        ("cloudphysics_20000.csv", TraceForm(columns={"page": "lbn", "op": "op"})),
        ("cloudphysics_20000.txt", TraceForm()),
        ("cloudphysics_20000.oracleGeneral.bin", TraceForm()),
        ("cloudphysics_20000.vscsi", TraceForm()),
    ],
)
def test_one_trace_in_four_formats(data_dir: Path, file: str, form: TraceForm) -> None:
    trace = load(str(data_dir / "formats" / file), form)
    assert (len(trace), trace.page_count) == (20_000, 13_778)
    stream = trace.pages, trace.page_count
    assert {size: lru.replay(*stream, size) for size in REAL_LRU} == REAL_LRU
    assert {size: fifo.replay(*stream, size) for size in REAL_FIFO} == REAL_FIFO
