"""The page of the public API: what ``import memcoord`` offers, with signatures and docstrings.

Owns: which members of a class are shown: all that have no underscore in front.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import memcoord
from memcoord.reference.markdown import page, prose, table
from memcoord.testbed.archive.outcome import Outcome


def function_page() -> str:
    """Functions and classes of the public API."""
    names = [name for name in memcoord.__all__ if not name.startswith("_")]
    return page(
        "From Python",
        "`import memcoord` loads nothing else; a name is fetched when it is first used. "
        "`examples/` of the source has nine short programs.",
        *(part for name in names for part in _shown(name, getattr(memcoord, name))),
        *_shown("Run", Outcome, "What `run`, `simulate` and `open_run` return."),
    )


def _shown(name: str, what: Any, before: str = "") -> Iterator[str | list[str]]:
    yield f"## {name}"
    if before:
        yield before
    yield f"```python\n{name}{_signature(what)}\n```"
    yield from _paragraphs(what)
    if inspect.isclass(what):
        rows = [
            (f"`{member}{_signature(found) if callable(found) else ''}`", _summary(found))
            for member, found in vars(what).items()
            if not member.startswith("_") and (callable(found) or hasattr(found, "__get__"))
        ]
        yield table(
            ("member", "what it is"), [(row[0].replace("|", "\\|"), row[1]) for row in rows]
        )


def _signature(what: Any) -> str:
    made = inspect.signature(what)
    kept = [one for one in made.parameters.values() if one.name != "self"]
    plain = [one.replace(annotation=_Plain(one.annotation)) for one in kept]
    return str(made.replace(parameters=plain, return_annotation=_Plain(made.return_annotation)))


class _Plain:
    """An annotation that is shown as it was written."""

    def __init__(self, annotation: Any) -> None:
        self._text = getattr(annotation, "__name__", str(annotation))

    def __repr__(self) -> str:
        return self._text


def _paragraphs(what: Any) -> Iterator[str]:
    for part in (inspect.getdoc(what) or "").split("\n\n"):
        yield prose(part)


def _summary(what: Any) -> str:
    return prose((inspect.getdoc(what) or "").split("\n\n")[0])
