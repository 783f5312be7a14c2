"""The verbs that show what has ended: ``report``, ``plot``, ``trace perfetto``; their options.

Owns: nothing else; ``memcoord.commands.report`` and ``plot`` do what they say. Called by
``memcoord.cli``.
"""

from typing import Annotated

import typer

from memcoord.commands import completing, show
from memcoord.commands.options import Json

Finished = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="A run's directory or name (default: the newest finished).",
        autocompletion=completing.runs,
    ),
]
Out = Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help="Write it here.")]


def report(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN [RUN]",
            help="A run, a bench or a sweep: its directory, name or JSON; or two runs to compare.",
            autocompletion=completing.runs,
        ),
    ] = None,
    out: Out = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser, too.")] = False,
    as_json: Json = False,
) -> None:
    """Write one HTML page that says what happened and needs nothing else to be read."""
    from memcoord.commands.report import report_command

    done, line = report_command(what or [], out, open_)
    show(as_json, done, [line])


def plot(
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help=".pdf, .svg or .png.")],
    run: Finished = None,
    what: Annotated[
        str, typer.Option(help="course, ram, tmem, waits, disk, outcome or latency.")
    ] = "course",
    as_json: Json = False,
) -> None:
    """Draw a figure for a paper, with its data as CSV beside it."""
    from memcoord.commands.plot import plot_command

    show(as_json, *plot_command(run, out, what))


def perfetto(
    run: Finished = None,
    out: Out = None,
    round_: Annotated[int, typer.Option("--round", min=0, help="Which round, from 0.")] = 0,
    as_json: Json = False,
) -> None:
    """Write a run as a trace for ui.perfetto.dev: a track per domain, decisions, counters."""
    from memcoord.commands.plot import perfetto_command

    done, line = perfetto_command(run, out, round_)
    show(as_json, done, [line])


def add_result_verbs(app: typer.Typer, trace_app: typer.Typer) -> None:
    """Give the apps these verbs."""
    for verb in (report, plot):
        app.command()(verb)
    trace_app.command("perfetto")(perfetto)
