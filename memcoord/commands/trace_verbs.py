"""``memcoord trace import``, ``record``, ``record-demand``: traces of one's own files and programs.

Owns: their options; ``trace_import``, ``trace_record`` and ``trace_demand`` do what they say.
Called by ``memcoord.cli``.
"""

from typing import Annotated

import typer

from memcoord.commands import show
from memcoord.commands.options import Json, TraceColumns, TraceFormat, TraceHex, TracePageSize

#: Pages from which on a recorded trace is exact, as the shipped trace ``sort``.
EXACT_FROM = 64
#: A few minutes under valgrind.
REFERENCES = 200_000_000
#: Of ``record-demand``: half a millisecond.
PERIOD_US = 500

Out = Annotated[
    str | None,
    typer.Option("--out", "-o", metavar="FILE", help="A .csv, .csv.gz, .csv.xz or .csv.zst file."),
]


def import_(
    file: Annotated[str, typer.Argument(help="A trace in any form, packed or not.")],
    out: Out = None,
    format_: TraceFormat = "",
    columns: TraceColumns = "",
    page_size: TracePageSize = "",
    hexadecimal: TraceHex = False,
    exact_from: Annotated[
        int,
        typer.Option(
            metavar="PAGES",
            help="Shorten it; LRU misses stay exact for memories of so many pages and more.",
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Write a trace in our own form, which every workload and 'sim --trace' read."""
    from memcoord.commands.trace_form import form_of
    from memcoord.commands.trace_import import import_trace

    form = form_of(format_, columns, page_size, hexadecimal)
    show(as_json, *import_trace(file, form, out, exact_from))


def record(
    program: Annotated[list[str], typer.Argument(help="The program and its arguments.")],
    out: Out = None,
    exact_from: Annotated[
        int,
        typer.Option(
            metavar="PAGES", help="LRU misses are exact for memories of so many pages; 0: for all."
        ),
    ] = EXACT_FROM,
    references: Annotated[
        int, typer.Option(min=0, help="End the program after so many; 0: never.")
    ] = REFERENCES,
    page_size: TracePageSize = "",
    as_json: Json = False,
) -> None:
    """Run a program under valgrind and write which pages it refers to, in order."""
    from memcoord.commands.trace_record import record_trace

    done = record_trace(
        program,
        out,
        exact_from=exact_from,
        references=references,
        page_size=page_size,
        quiet=as_json,
    )
    show(as_json, *done)


def record_demand(
    program: Annotated[list[str], typer.Argument(help="The program and its arguments.")],
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="A .csv.xz file.")
    ] = None,
    period_us: Annotated[
        int, typer.Option(min=50, max=1_000_000, help="Microseconds from a sample to the next.")
    ] = PERIOD_US,
    seconds: Annotated[
        float, typer.Option(min=0.01, max=3600, help="End the program after so long.")
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Run a program and write how much memory it and its children hold, moment by moment."""
    from memcoord.commands.trace_demand import record_demand as recorded

    done = recorded(program, out, period_us=period_us, seconds=seconds, quiet=as_json)
    show(as_json, *done)


def add_trace_verbs(trace_app: typer.Typer) -> None:
    """Give the app these verbs."""
    trace_app.command("import")(import_)
    words = {"allow_interspersed_args": False}
    trace_app.command("record", context_settings=words)(record)
    trace_app.command("record-demand", context_settings=words)(record_demand)
