"""The processes of the allocators that stand beside grants.

Owns: starting them, and leaving out what is not installed. A glibc process that has ever had a
second thread locks from then on; so each allocator has a process of one thread, and another for
several. Used by: ``memcoord.benchmarks.grant.bench``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.grant.malloc_guest import ALLOCATORS, MODULE, Allocator
from memcoord.benchmarks.harness import Sheet
from memcoord.benchmarks.lab import BenchError, Lab
from memcoord.testbed.runs.remote import Remote


@dataclass(frozen=True)
class Rival:
    """One allocator: its process of one thread, and that of several."""

    allocator: Allocator
    single: Remote
    several: Remote

    @property
    def name(self) -> str:
        """The allocator's."""
        return self.allocator.name

    def of(self, threads: int) -> Remote:
        """The process for so many threads."""
        return self.single if threads == 1 else self.several

    def ask(self, op: str, **args: Any) -> Any:
        """An operation of the process of one thread."""
        return self.single.ask(op, **args)


def start_rivals(lab: Lab, sheet: Sheet, names: Collection[str] = ()) -> list[Rival]:
    """The allocators, or those of ``names``, found on this machine; ``sheet`` is told which are
    not."""
    found = []
    for allocator in ALLOCATORS:
        if names and allocator.name not in names:
            continue
        library = allocator.library()
        if library is None:
            sheet.skip(allocator.name, ConfigError(allocator.name, "the library is not installed"))
            continue
        pair = [
            lab.remote(f"malloc-{allocator.name}{more}".replace(" ", "-"), MODULE, library,
                       allocator.tunables, "--single-threaded")
            for more in ("", "-threads")
        ]  # fmt: skip
        for process in pair:
            if library and not process.ask("is_preloaded", library=library):
                raise BenchError(f"{allocator.name}: {library} is not preloaded")
        found.append(Rival(allocator, *pair))
    return found
