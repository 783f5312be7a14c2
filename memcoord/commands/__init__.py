"""The verbs of the ``memcoord`` command, one file per verb; ``memcoord.cli`` gives them options.

Owns: what many verbs share: two options, an exit code, and how an answer is shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

EXIT_FAILED = 1
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
RunDirOption = Annotated[
    str | None, typer.Option("--run-dir", metavar="DIR", help="The run's directory.")
]


def show(as_json: bool, result: dict[str, Any], lines: list[str]) -> None:
    """Print the object or the lines, whichever was asked for."""
    if as_json:
        import msgspec

        lines = [msgspec.json.encode(result).decode()]
    for line in lines:
        typer.echo(line)


def run_dir_of(run_dir: str | None) -> Path:
    """The run named on the command line, or the newest that is live; ConfigError when none is."""
    from memcoord.testbed.runs.rundir import newest_live

    return Path(run_dir) if run_dir else newest_live()
