"""The measured process of ``memcoord bench unplug``: a guest that goes on working meanwhile.

Owns: the operations that fill a domain and run ``mcb_load_run`` on a thread of its own. Called by:
``memcoord.benchmarks.unplug.bench``.
"""

from __future__ import annotations

import threading
from typing import Any

from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.measured import ok, run
from memcoord.benchmarks.mechanisms.guest import MechanismGuest
from memcoord.testbed.runs.remote import operation


class _Load:
    """The load of one domain, and the thread that it runs on."""

    def __init__(self, guest: Any, slot: int, fill: int, keep_every: int, clusters: int,
                 cluster_frames: int, seed: int) -> None:  # fmt: skip
        self.guest, self.slot = guest, slot
        self.handles = ffi.new("uint32_t[]", fill)
        self.c = ffi.new("struct mcb_load *")
        self.c.fill, self.c.keep_every, self.c.handles = fill, keep_every, self.handles
        self.c.clusters, self.c.cluster_frames = clusters, cluster_frames
        self.c.seed = seed
        ok(lib.mcb_load_fill(guest, slot, self.c), "fill")
        self.status = 0
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.status = lib.mcb_load_run(self.guest, self.slot, self.c)

    def counts(self) -> dict[str, int]:
        """What it has done so far, and holds."""
        names = ("references", "refused", "stalled", "handle_count", "stayed")
        return {name: int(getattr(self.c, name)) for name in names}


class LoadGuest(MechanismGuest):
    """Domains that work."""

    @operation
    def load(self, key: str, **sizes: int) -> dict[str, int]:
        """Fill a domain and begin to work; its counts."""
        adopted = self._adopted[key]
        self._load = _Load(adopted.guest, adopted.domain.claim_slot(), **sizes)
        self._load.thread.start()
        return self._load.counts()

    @operation
    def counts(self, key: str) -> dict[str, int]:
        """The counts of the load; MemcoordError when it has failed."""
        del key
        ok(self._load.status, "load")
        return self._load.counts()

    @operation
    def end_load(self, key: str) -> None:
        """Stop working."""
        del key
        self._load.c.stop = 1
        self._load.thread.join()
        ok(self._load.status, "load")


if __name__ == "__main__":
    run(LoadGuest)
