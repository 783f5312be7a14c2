"""What things cost in virtual time.

Owns: ``Costs``, in nanoseconds. The defaults are those of the testbed's own guest, which is Python
and has a page in about a microsecond, a fault done in about twenty: from run times of ``memcoord
run main``, on two cores, good for a factor of two. A scenario's ``[disk]`` and ``[costs]`` tables
override them. Pure.
"""

from __future__ import annotations

from typing import Any

import msgspec

NS_PER_US = 1000


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nanoseconds. A reference that hits costs its stream's ``compute_ns``; these come on top."""

    fault_ns: int = 12_000  # of every fault, whatever serves it
    first_touch_ns: int = 0
    tmem_get_ns: int = 4_000
    tmem_put_ns: int = 4_000
    disk_read_ns: int = 100_000
    disk_write_ns: int = 50_000
    disk_shared: bool = False  # one disk for all domains, which then wait for each other


def costs_of(scenario: Any) -> Costs:
    """The costs of a scenario: the defaults, and what its ``[disk]`` and ``[costs]`` say in us."""
    found: dict[str, int] = {}
    for table, prefix in (("disk", "disk_"), ("costs", "")):
        for key, value in _items(getattr(scenario, table, None)):
            name = f"{prefix}{key.removesuffix('_us')}_ns" if key.endswith("_us") else prefix + key
            if value is not None:
                found[name] = round(value * NS_PER_US) if key.endswith("_us") else value
    return msgspec.convert(found, Costs)


def _items(table: Any) -> list[tuple[str, Any]]:
    plain = {} if table is None else msgspec.to_builtins(table)
    return list(plain.items())
