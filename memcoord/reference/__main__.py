"""``python -m memcoord.reference DIR``: write the reference's pages into ``DIR``.

Owns: the writing. A page that is there no more is removed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from memcoord.reference.pages import written

USAGE = "usage: python -m memcoord.reference DIR, such as docs/reference"


def write(directory: Path) -> None:
    """Write every page, and remove other pages that lie there."""
    pages = written()
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(USAGE)
    write(Path(sys.argv[1]))
