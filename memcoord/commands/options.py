"""Options of many verbs, as the app declares them, and of those that read a trace."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
RunDirOption = Annotated[
    str | None, typer.Option("--run-dir", metavar="DIR", help="The run's directory.")
]
TraceFile = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Instead: a trace, in any form of docs/traces.md."),
]
CachePages = Annotated[
    str, typer.Option(metavar="N,N,...", help="With --trace: sizes of the cache.")
]
Replacement = Annotated[str, typer.Option(help="With --trace: lru, fifo or clock.")]
Curve = Annotated[bool, typer.Option("--mrc", help="The whole exact LRU curve.")]
Shards = Annotated[
    float, typer.Option(metavar="RATE", help="Also its estimate from a sample of the pages.")
]
TraceFormat = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        help="csv, text, oracleGeneral, vscsi, perf or lackey (default: the file tells).",
    ),
]
TraceColumns = Annotated[
    str,
    typer.Option(
        "--columns",
        metavar="page=NAME|N,op=...",
        help="Which column has the page, and which reads and writes.",
    ),
]
TracePageSize = Annotated[
    str,
    typer.Option(
        "--page-size", metavar="SIZE", help="The numbers are addresses; a page has so many bytes."
    ),
]
TraceHex = Annotated[
    bool, typer.Option("--hex", help="The numbers are hexadecimal, also without 0x.")
]
