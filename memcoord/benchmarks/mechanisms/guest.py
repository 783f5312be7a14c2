"""The measured processes of ``memcoord bench mechanisms``: domains of the bench's own host.

Owns: the domains this process has adopted by their file descriptors (the host is the bench's own,
so no hypervisor listens at a socket), the frames each holds, and an operation per thing it does.
Rules: compiled loops do everything that is timed, on a slot of their own. Times are nanoseconds of
CLOCK_MONOTONIC, which is the backend's clock too.
Called by: ``memcoord.benchmarks.mechanisms.stage``.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from hypervisor.public.errors import NoMemory
from hypervisor.public.units import FRAME_BYTES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.measured import Measured, ok, run
from memcoord.testbed.guests.obedient import domain_of
from memcoord.testbed.runs.remote import operation

SAMPLES_MAX = 1 << 16
EXHAUST_TRIES = 500
EXHAUST_REST_S = 0.002


class AdoptedDomain:
    """One domain, and the frames that are held of it."""

    def __init__(self, fds: list[int], attached: dict[str, Any]) -> None:
        self.domain = domain_of(fds, attached)
        self.guest: Any = ffi.cast("struct mc_guest *", self.domain.guest_address)
        self.slot = self.domain.claim_slot()
        self.frames: Any = ffi.new("uint32_t[]", self.domain.maxmem_frames)
        self.held = 0

    def take(self, limit: int, asks: bool) -> tuple[int, int]:
        """Take and touch up to ``limit`` frames more: how many, and the nanoseconds it took."""
        elapsed = ffi.new("uint64_t *")
        room = min(limit, self.domain.maxmem_frames - self.held)
        out = self.frames + self.held
        taken = ok(lib.mcb_take_all(self.guest, self.slot, out, room, asks, elapsed), "take")
        self.held += taken
        return taken, int(elapsed[0])

    def give(self, count: int) -> int:
        """Free the last ``count`` frames that are held."""
        count = min(count, self.held)
        self.held -= count
        ok(lib.mcb_give_all(self.guest, self.slot, self.frames + self.held, count), "give")
        return count

    def wait(self, count: int, asks: bool, plea_fd: int) -> tuple[int, int]:
        """Wait for ``count`` frames more: when that began, and when all of them were touched."""
        asked = (self.frames + self.held, count, asks, plea_fd)
        wait = ffi.new("struct mcb_wait *", asked)
        ok(lib.mcb_await(self.guest, self.slot, wait), f"wait for {count} frames")
        self.held += count
        return int(wait.began_ns), int(wait.ended_ns)


class MechanismGuest(Measured):
    """The domains of one process; ``key`` names the domain an operation is about."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        super().__init__(stack)
        self._adopted: dict[str, AdoptedDomain] = {}

    @operation
    def adopt(self, key: str, fds: list[int], attached: dict[str, Any]) -> None:
        """Become a domain that is handed over."""
        self._adopted[key] = AdoptedDomain(fds, attached)

    @operation
    def leave(self, key: str) -> None:
        """Be that domain no more."""
        self._adopted.pop(key).domain.close()

    @operation
    def take(self, key: str, limit: int, asks: bool) -> tuple[int, int]:
        """Use up to ``limit`` frames more. Returns how many there were, and the time of it."""
        return self._adopted[key].take(limit, asks)

    @operation
    def huge_share(self, key: str) -> float:
        """The share of the domain's memory that this process has mapped by pages of 2 MiB."""
        domain = self._adopted[key].domain
        size = domain.maxmem_frames * FRAME_BYTES
        return int(lib.mc_huge_bytes(domain.address, size)) / size

    @operation
    def exhaust(self, key: str) -> int:
        """Use every frame the domain has, without asking for more. Returns how many that took.

        NoMemory when some cannot be had. The mapper thread holds an area while it maps it, hence
        the tries.
        """
        guest, taken = self._adopted[key], 0
        for _ in range(EXHAUST_TRIES):
            taken += guest.take(guest.domain.maxmem_frames, False)[0]
            if guest.held >= guest.domain.current_frames:
                return taken
            time.sleep(EXHAUST_REST_S)
        raise NoMemory(f"{key}: of {guest.domain.current_frames} frames only {guest.held}")

    @operation
    def fill(self, key: str, frames: int, asks: bool) -> int:
        """Use ``frames`` frames more; the nanoseconds until all of them were touched."""
        began_ns, ended_ns = self._adopted[key].wait(frames, asks, -1)
        return ended_ns - began_ns

    @operation
    def give(self, key: str, count: int) -> int:
        """Free frames."""
        return self._adopted[key].give(count)

    @operation
    def refill(self, key: str, limit: int, asks: bool) -> int:
        """Use frames and free them again; a donor's frames are free but backed by pages."""
        guest = self._adopted[key]
        return guest.give(guest.take(limit, asks)[0])

    @operation
    def transfers(
        self, key: str, frames: int, count: int, asks: bool, plea_fd: int, rest_s: float,
        run_s: float,
    ) -> list[tuple[int, int]]:  # fmt: skip
        """Get ``frames`` at a time, at most ``count`` times and for ``run_s``; hold them all.

        Returns beginning and end of each transfer. A guest that cannot ask uses up all frames that
        came with a transfer before it waits for the next one.
        """
        guest, until = self._adopted[key], time.monotonic() + run_s
        times: list[tuple[int, int]] = []
        while len(times) < count and time.monotonic() < until:
            time.sleep(rest_s)
            if not asks:
                guest.take(guest.domain.maxmem_frames, False)
            if guest.domain.maxmem_frames - guest.held < frames:
                break
            times.append(guest.wait(frames, asks, plea_fd))
        return times

    @operation
    def loop(self, key: str, what: str, frames: int, run_s: float) -> tuple[int, bytes]:
        """STREAM-like copies ("stream") over ``frames`` frames, or allocations ("churn").

        When it began, and the time of each chunk, one after the other without a gap.
        """
        guest, samples = self._adopted[key], ffi.new("uint64_t[]", SAMPLES_MAX)
        run_ns = int(run_s * 1e9)
        if frames > guest.held:
            raise ValueError(f"{key} holds {guest.held} frames, not {frames}")
        began_ns = time.monotonic_ns()
        if what == "stream":
            first = guest.frames + guest.held - frames
            taken = lib.mcb_stream(guest.guest, first, frames, run_ns, samples, SAMPLES_MAX)
        else:
            taken = lib.mcb_churn(guest.guest, guest.slot, run_ns, samples, SAMPLES_MAX)
        return began_ns, bytes(ffi.buffer(samples, 8 * ok(taken, what)))


if __name__ == "__main__":
    run(MechanismGuest)
