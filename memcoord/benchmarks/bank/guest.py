"""The measured process of ``memcoord bench bank``: one program, a domain of two hypervisors.

Owns: taking and giving back the frames of a domain, and the compiled loops over two tiers of
memory. Called by: ``memcoord.benchmarks.bank.bench``.
"""

from __future__ import annotations

import contextlib
from typing import Any

from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.measured import Measured, ok, run
from memcoord.testbed.runs.remote import operation


class BankGuest(Measured):
    """The domains by their keys, and the frames that are held of each."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        super().__init__(stack)
        self._frames: dict[str, Any] = {}
        self._held: dict[str, int] = {}

    @operation
    def take(self, key: str, most: int) -> int:
        """Take up to ``most`` frames in all, touching none. How many are held."""
        attached = self._attached[key]
        if key not in self._frames:
            self._frames[key] = ffi.new("uint32_t[]", attached.domain.maxmem_frames)
        held = self._held.get(key, 0)
        frames = self._frames[key] + held
        taken = lib.mc_frames_alloc_many(
            ffi.addressof(attached.guest.frames), attached.slot, frames, max(most - held, 0)
        )
        self._held[key] = held + max(int(taken), 0)
        return self._held[key]

    @operation
    def give(self, key: str) -> None:
        """Free all frames of a domain."""
        attached, held = self._attached[key], self._held.pop(key, 0)
        frames = self._frames.get(key, ffi.NULL)
        ok(lib.mcb_give_all(attached.guest, attached.slot, frames, held), "give")

    @operation
    def access(self, key: str, kind: int, first: int, count: int, added_ns: int) -> bytes:
        """A sample for each of ``count`` frames from the one numbered ``first`` on."""
        samples = ffi.new("uint64_t[]", count)
        tier = self._tier(key, first, count, added_ns)
        ok(lib.mcb_tier_access(tier, kind, samples), "access")
        return bytes(ffi.buffer(samples))

    @operation
    def mix(self, near: int, far: int, added_ns: int, seed: int, count: int) -> bytes:
        """References over ``near`` frames of the domain "near" and ``far`` of "bank"."""
        samples = ffi.new("uint64_t[]", count)
        tiers = self._tier("near", 0, near, 0), self._tier("bank", 0, far, added_ns)
        ok(lib.mcb_tier_mix(*tiers, seed, samples, count), "mix")
        return bytes(ffi.buffer(samples))

    def _tier(self, key: str, first: int, count: int, added_ns: int) -> Any:
        if first + count > self._held.get(key, 0):
            raise ValueError(f"{key} holds {self._held.get(key, 0)} frames, not {first + count}")
        tier = ffi.new("struct mcb_tier *")
        tier.guest, tier.frames = self._attached[key].guest, self._frames[key] + first
        tier.count, tier.added_ns = count, [added_ns] * 3
        return tier


if __name__ == "__main__":
    run(BankGuest)
