"""The verbs of the ``memcoord`` command, one file per verb; ``memcoord.cli`` gives them options.

Owns: what many verbs share: an exit code, and how an answer is shown. ``options`` has what the app
needs of it; ``api`` has verbs as functions, for ``import memcoord``.
"""

import sys
from pathlib import Path
from typing import Any

EXIT_FAILED = 1


def show(as_json: bool, result: dict[str, Any], lines: list[str]) -> None:
    """Print the object or the lines, whichever was asked for."""
    if as_json:
        import msgspec

        lines = [msgspec.json.encode(result).decode()]
    for line in lines:
        tell(line)


def tell(line: str) -> None:
    """Print a line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def columns(pipe: int = 80) -> int:
    """How wide lines may be: the terminal, and ``pipe`` columns in a pipe."""
    import shutil

    return max(shutil.get_terminal_size().columns, 40) if sys.stdout.isatty() else pipe


def wrapped(text: str, indent: int, width: int, first: str = "") -> list[str]:
    """``text`` broken between words, below ``first`` from column ``indent`` on."""
    import textwrap

    begin = first.ljust(indent) if len(first) < indent else f"{first} "
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=begin,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [begin.rstrip()]


def run_dir_of(run_dir: str | None) -> Path:
    """The run named on the command line, or the newest that is live; ConfigError when none is."""
    from memcoord.testbed.runs.rundir import newest_live

    return Path(run_dir) if run_dir else newest_live()
