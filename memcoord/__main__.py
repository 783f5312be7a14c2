"""``python -P -m memcoord``, and what the ``memcoord`` script calls.

Owns: Ctrl-C while the command is still being imported, which is most of its start.
"""

import sys

EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command; never returns."""
    try:
        from memcoord.cli import main as command
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    command()


if __name__ == "__main__":
    main()
