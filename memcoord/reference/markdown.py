"""The little Markdown that a reference is made of.

Owns: how a page, a table and a text of the code become Markdown. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"``([^`]+)``")
_BRACKETS = re.compile(r"(`[^`]*`)|([<>\[\]*_|])")


def code(text: object) -> str:
    """As it is typed; nothing for nothing."""
    word = str(text)
    return f"`{word}`".replace("|", "\\|") if word else ""


def prose(text: str) -> str:
    """A docstring or a comment as Markdown: its names are code, its other signs are signs."""
    plain = " ".join(_CODE.sub(r"`\1`", text).split())
    return _BRACKETS.sub(lambda at: _escaped(at[1]) if at[1] else f"\\{at[2]}", plain)


def _escaped(span: str) -> str:
    return span.replace("|", "\\|")  # also within code, a bar would end the cell of a table


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table; nothing without rows. A column in which no row has anything is left out."""
    found = [[cell.replace("\n", " ") for cell in row] for row in rows]
    if not found:
        return []
    kept = [at for at in range(len(heads)) if any(row[at] for row in found)]
    lines = [[heads[at] for at in kept], ["---"] * len(kept)]
    lines += [[row[at] for at in kept] for row in found]
    return ["", *(f"| {' | '.join(cells)} |" for cells in lines), ""]


def page(title: str, *parts: str | Iterable[str]) -> str:
    """A page of lines and paragraphs, with no more than one empty line between two."""
    lines = [f"# {title}", ""]
    for part in parts:
        lines += [part, ""] if isinstance(part, str) else list(part)
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    return f"{text.rstrip()}\n"
