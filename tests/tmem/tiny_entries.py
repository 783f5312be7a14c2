"""Entries that compile in a moment, in place of a pool's."""

from __future__ import annotations

from tmem.entry import entry


@entry
def double(number):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    return 2 * number


@entry(beside="double")
def tenth(number):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """The value at a place of a table: code that needs constants outside itself."""
    return (3, 1, 4, 1, 5, 9, 2, 6, 5, 3)[number % 10]


def fails(number):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    return number.nothing
