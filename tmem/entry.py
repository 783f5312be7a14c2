"""The mark of a kernel that is called from outside: by C through its address, or by Python.

Owns: ``entry``. An entry takes 64-bit integers and answers one. ``tmem.compiling`` compiles every
entry of a module into an object of its own, with all the kernels it calls; who needs it names it in
a ``tmem.units.Unit``. Any package may declare entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

MARK = "__tmem_entry__"


@overload
def entry(function: Callable[..., Any]) -> Callable[..., Any]: ...
@overload
def entry(*, beside: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
def entry(function: Any = None, *, beside: str = "") -> Any:
    """Mark a function. ``beside`` names another entry of the module that calls the same kernels:
    one process then compiles both, and those kernels once."""

    def mark(marked: Any) -> Any:
        setattr(marked, MARK, beside)
        return marked

    return mark if function is None else mark(function)


def entries_of(module: Any) -> dict[str, tuple[Callable[..., Any], str]]:
    """Every entry of a module by name, and the one beside which it is to be compiled."""
    return {
        name: (found, getattr(found, MARK))
        for name, found in vars(module).items()
        if hasattr(found, MARK)
    }
