"""The verb ``web`` and its options; ``memcoord.commands.web`` does what it says.

Owns: nothing else. Called by ``memcoord.cli``.
"""

from typing import Annotated

import typer

from memcoord.commands.options import Json


def web(
    run: Annotated[
        str | None, typer.Argument(help="A run's name or directory (default: the newest).")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    as_json: Json = False,
) -> None:
    """Show a run in the browser: live, its past, and finished runs; on this machine only."""
    from memcoord.commands.web import web_command

    raise typer.Exit(web_command(run, port, as_json))
