"""How long a fault, a page moved to or from tmem, and a disk transfer take in virtual time.

Owns: ``Costs``. The defaults are those of the testbed's own guest, a Python program that references
a resident page in about 1 us and serves a fault in about 20 us. They come from run times of
``memcoord run main`` on two cores and are right to a factor of two. A scenario's ``[disk]`` and
``[costs]`` tables override them. Pure.
"""

from __future__ import annotations

from typing import Any

import msgspec

NS_PER_US = 1000


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nanoseconds on top of the ``compute_ns`` of a stream, which every reference takes."""

    fault_ns: int = 12_000  # of every fault, wherever its page comes from
    first_touch_ns: int = 0
    tmem_get_ns: int = 4_000
    tmem_put_ns: int = 4_000
    disk_read_ns: int = 100_000
    disk_write_ns: int = 50_000
    disk_shared: bool = False  # all domains use one disk and wait for each other


def costs_of(scenario: Any) -> Costs:
    """The costs of a scenario: its ``[disk]`` and ``[costs]`` (in us) over the defaults."""
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
