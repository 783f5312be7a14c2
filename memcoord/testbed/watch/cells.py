"""Numbers as text of a given width: a unit is dropped before a digit is.

Owns: how sizes, counts, shares and times are written where a column is narrow. Pure. A number that
does not fit is written in thousands or millions, never cut.
"""

from __future__ import annotations

from hypervisor.public.units import FRAME_BYTES

UNKNOWN = "-"
_MIB_PAGES = (1 << 20) // FRAME_BYTES
_POWERS = ((1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"), (1e15, "P"), (1e18, "E"))
_TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))


def named(name: str, width: int) -> str:
    """A name in at most so many characters: its end tells domains apart."""
    if len(name) <= width:
        return name
    return f"{name[: width // 2 - 1]}~{name[-(width - width // 2) :]}"


def mib(pages: int, width: int = 7) -> str:
    """Pages of 4 KiB in MiB; ``none`` for no limit."""
    return "none" if pages < 0 else number(pages / _MIB_PAGES, width, places=1)


def number(value: float | None, width: int = 6, places: int = 0) -> str:
    """A number that is not below 0, in at most ``width`` characters."""
    if value is None:
        return UNKNOWN
    forms = [f"{value:,.{places}f}", f"{value:,.0f}", f"{value:.0f}"]
    for power, letter in _POWERS:
        if value < 1000 * power:
            forms += [f"{value / power:.1f}{letter}", f"{value / power:.0f}{letter}"]
    return next((form for form in forms if len(form) <= width), forms[-1])


def share(value: float | None) -> str:
    """A share of time in percent."""
    return UNKNOWN if value is None else f"{100 * value:.0f}"


def span(ns: float | None) -> str:
    """A time in two digits and its unit: a bucket of the feed tells no more."""
    if ns is None:
        return UNKNOWN
    size, unit = next((size, unit) for size, unit in _TIMES if ns >= 0.995 * size or size == 1)
    value = ns / size
    if value >= 99.5:
        return f"{round(value, -1):.0f} {unit}"
    return f"{value:.0f} {unit}" if value >= 9.95 else f"{value:.1f} {unit}"
