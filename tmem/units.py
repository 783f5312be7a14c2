"""What is compiled of a pool, by name, so that whoever starts one can have all of it made first.

Owns: the units. Pure: importing this module imports and compiles nothing.
"""

from __future__ import annotations

from typing import NamedTuple


class Unit(NamedTuple):
    """Entries that are loaded together: those of ``module`` that are called ``names``."""

    module: str
    names: tuple[str, ...]

    @property
    def keys(self) -> list[str]:
        """What the compiler calls them."""
        return [f"{self.module}:{name}" for name in self.names]


#: What every pool runs. The first takes longest to compile, so a process begins with it at once.
POOL = Unit(
    "tmem.entries",
    (
        *("execute", "many", "control", "peek", "shrink", "host", "compress"),
        *("close_client", "open_client", "take_gone", "grow"),
    ),
)
#: What a pool with miss-ratio curves runs beside it, and one that is recovered.
CURVES = Unit("tmem.shards", ("note",))
RECOVERY = Unit("tmem.rebuild", ("rebuild",))
#: All that a hypervisor may run.
ALL = [POOL, RECOVERY, CURVES]
