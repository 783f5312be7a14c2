"""``python -P -m memcoord``, and what the ``memcoord`` script calls.

Owns: Ctrl-C while the command is still being imported, which is most of its start.
"""

import sys
from collections.abc import Callable

EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command; never returns."""
    try:
        from memcoord.ending import carry_out
        from memcoord.quick import command_of

        command = command_of(sys.argv[1:]) or _app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    carry_out(command)


def _app() -> Callable[[], object]:
    from memcoord.cli import app

    return app


if __name__ == "__main__":
    main()
