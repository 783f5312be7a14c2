"""The same references in every form a trace may have, as the programs that write them do."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable

from memcoord.testbed.scenarios.trace_files import TraceForm

#: (page, what is done): the fourth is beyond 2**32.
ROWS = [(3, "r"), (1, "w"), (4, "r"), (1 << 33, "r"), (5, "w"), (3, "w"), (1, "r")]
PAGE = 4096
SCSI = {"r": 0x28, "w": 0x2A}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
}


def _lines(row: str, first: str = "") -> bytes:
    """A line for every reference, by a pattern with its number, page, address and operation."""
    lines = [first] if first else []
    for number, (page, op) in enumerate(ROWS):
        place, near = (page * size + 8 * number for size in (PAGE, 256))
        kind = {"r": "L", "w": "S"}[op]
        lines.append(row.format(n=number, page=page, place=place, near=near, op=op, kind=kind))
    return "".join(f"{line}\n" for line in lines).encode()


LACKEY = _lines(
    " {kind} {place:x},8",
    "==77== Lackey, an example Valgrind tool\n==77== Command: sort\n==77== ",
)
PERF = (
    _lines(
        "            sort   311 [000]  5310.91823{n}:          1 cpu/mem-{op}/P:     {place:x}"
        "      10868100242 |OP ...|LVL L1 hit|     55d0c8f0a1b3 main+0x13 (/usr/bin/sort)",
        "# perf script of 'sort: all'\n#",
    )
    .replace(b"mem-w", b"mem-stores")
    .replace(b"mem-r", b"mem-loads")
)
ORACLE = b"".join(struct.pack("<IQIq", n, page, 512, -1) for n, (page, _) in enumerate(ROWS))
VSCSI = b"".join(
    struct.pack("<IIIHHQQ", n, 512, 1, SCSI[op], 0x0100, page, n)
    for n, (page, op) in enumerate(ROWS)
)

#: What it is -> name of the file, its bytes, and what has to be said of it.
FORMS: dict[str, tuple[str, bytes, TraceForm]] = {
    "csv": ("a.csv", _lines("{page}", "page"), TraceForm()),
    "csv, another name": (
        "a.csv",
        _lines("{n},{page},512,{op}", "time,obj_id,size,cmd"),
        TraceForm(columns={"page": "obj_id", "op": "cmd"}),
    ),
    "csv, by number": (
        "a.csv",
        _lines("{n};{page};{op}", "time;obj id;cmd"),
        TraceForm(format="csv", columns={"page": 2, "op": "3"}),
    ),
    "csv, with flags": (
        "a.csv",
        _lines("{n}\t{page}\t{op}", "t\tpage\tflags")
        .replace(b"\tr\n", b"\t0\n")
        .replace(b"\tw\n", b"\t1\n"),
        TraceForm(),
    ),
    "csv, blanks": ("a", _lines("{n}   {page}", "  time page"), TraceForm()),
    "text": ("a.txt", _lines("{page}"), TraceForm()),
    "text, comments": ("a.txt", _lines("{page}", "# id\n\n#\n"), TraceForm()),
    "text, 0x": ("a.txt", _lines("0x{place:X}"), TraceForm(page_size=PAGE)),
    "text, hexadecimal": (
        "a.txt",
        _lines("{place:x}"),
        TraceForm(page_size=PAGE, hexadecimal=True),
    ),
    "text, columns": (
        "a.txt",
        _lines("  {op}  {page:x}  8"),
        TraceForm(format="text", columns={"page": 2, "op": 1}, hexadecimal=True),
    ),
    "oracleGeneral": ("a.oracleGeneral.bin", ORACLE, TraceForm()),
    "oracleGeneral, said": ("a.bin", ORACLE, TraceForm(format="oracleGeneral")),
    "vscsi": ("a.vscsi", VSCSI, TraceForm()),
    "lackey": ("a.out", LACKEY, TraceForm()),
    "lackey, small pages": (
        "a.out",
        _lines(" {kind} {near:x},8"),
        TraceForm(page_size=256),
    ),
    "perf": ("a.perf", PERF, TraceForm()),
    "perf, addresses": ("a.perf", _lines("    {place:x}"), TraceForm(format="perf")),
    "perf, events": (
        "a.perf",
        _lines("cpu/mem-{op}/P:  {place:x}"),
        TraceForm(format="perf"),
    ),
}
#: Those that say which references write.
WITH_WRITES = [
    *("csv, another name", "csv, by number", "csv, with flags", "text, columns"),
    *("vscsi", "lackey", "lackey, small pages", "perf"),
]
