"""Fuzz the ring decoder: any words as records and as indices of a ring, against the C service.

``python fuzz/fuzz_ring.py [INPUT] [libFuzzer options]``. One hypervisor in this process serves a
guest made of the bare ABI. An input is a list of steps: a record of any words on either ring, a
published index or sequence number that is wrong. Every proper record gets an answer; a guest that
broke its ring or spent its error budget is closed and attaches anew; after every input the ledger
and the pool are valid, and all that the guest had is back when it is gone.

The service is C, which the fuzzer cannot see into: what steers it are the answers. Each operation
with its status, after each that came before it, is a branch of its own here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import atheris

from backend.host import HostBackend
from frontend._guest import lib
from hypervisor.public.backend import DomainSpec
from hypervisor.public.units import AREA_FRAMES, RING_SLOTS, DomId

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "backend"))
from guest_double import GuestDouble  # noqa: E402

STEPS_MAX = 40
INPUT_BYTES_MAX = 1024
BREAK_S = 10.0
CLOSE_S = 20.0
POLL_S = 0.0002
DOMAIN = DomId(0)
SPEC = DomainSpec("vm1", 4 * AREA_FRAMES, AREA_FRAMES, 3 * AREA_FRAMES, credit_areas=1)
WORDS = [0, 1, 2, 15, 16, 511, 512, 2047, 2048, 1 << 24, 1 << 24 | 1, 1 << 32, 2**63, 2**64 - 1]

#: Operations from here on are all alike.
OPS = 24

Outcome = tuple[int, int, bool]

_branches: dict[tuple[Outcome, ...], Callable[[], None]] = {}


class Lab:
    """A host and the one guest that is attached to it."""

    def __init__(self) -> None:
        self.backend = HostBackend(
            total_frames=6 * AREA_FRAMES,
            slack_frames=AREA_FRAMES,
            tmem_max_frames=2 * AREA_FRAMES,
            spin_ns=0,
            error_budget=8,
        )
        self.attach()

    def attach(self) -> None:
        """A fresh guest, which has one frame and a pool of each kind."""
        self.guest = GuestDouble(self.backend.open(DOMAIN, SPEC))
        self.frame = self.guest.alloc()
        for flags in (1 << 24, 1 << 24 | 1):
            self.guest.send(lib.MC_OP_NEW_POOL, flags, tmem=True)

    def detach(self) -> None:
        """Close the guest; everything it had must be the host's again."""
        self.backend.close(DOMAIN)
        self.guest.close()
        assert self.backend.wait_closed(CLOSE_S), "a domain does not go"
        self.check()
        assert self.backend.tmem.statistics().used_pages == 0

    def check(self) -> None:
        """Every invariant."""
        self.backend.validate()
        self.backend.tmem.validate()

    def is_broken(self) -> bool:
        """Whether the service will not serve the guest any more."""
        return bool(self.backend.broken())

    def wait_broken(self) -> None:
        """After the ring was spoiled: the service must see it."""
        lib.mc_eventfd_ring(self.guest.handles.bell_fd)
        until = time.monotonic() + BREAK_S
        while not self.is_broken():
            assert time.monotonic() < until, "a spoilt ring was not noticed"
            time.sleep(POLL_S)


def seen(*outcomes: Outcome) -> None:
    """Tell the fuzzer about two outcomes in a row: a function of their own is called for each."""
    if outcomes not in _branches:
        _branches[outcomes] = atheris.instrument_func(eval("lambda: None"))
    _branches[outcomes]()


def word(source: atheris.FuzzedDataProvider, lab: Lab) -> int:
    """A word of a record: often one that means something."""
    kind = source.ConsumeIntInRange(0, 3)
    if kind == 0:
        return int(source.ConsumeUInt(8))
    if kind == 1:
        return lab.frame
    return int(source.PickValueInList(WORDS)) | source.ConsumeIntInRange(0, 3)


def step(source: atheris.FuzzedDataProvider, lab: Lab, before: Outcome) -> Outcome:
    """Send one record, or spoil the ring; what came of it."""
    kind, tmem = source.ConsumeIntInRange(0, 31), source.ConsumeBool()
    ring = lab.guest.ring(tmem)
    if kind == 0:
        ring.req_prod = ring.req_prod + source.ConsumeIntInRange(RING_SLOTS + 1, 2**31) & (
            2**32 - 1
        )
        lab.wait_broken()
    elif kind == 1:
        ring.slots[ring.req_prod % RING_SLOTS].seq = ring.req_prod + 1 & (2**32 - 1)
        ring.req_prod = ring.req_prod + 1 & (2**32 - 1)
        lab.wait_broken()
    elif kind == 2:
        ring.req_event, ring.rsp_prod = source.ConsumeUInt(4), ring.rsp_prod
        ring.rsp_event = source.ConsumeUInt(4)
    else:
        op = source.ConsumeIntInRange(0, OPS - 1) if kind < 30 else source.ConsumeUInt(2)
        status, _ = lab.guest.send(op, *(word(source, lab) for _ in range(5)), tmem=tmem)
        outcome = (min(op, OPS), min(status, 1), tmem)
        seen(before, outcome)
        return outcome
    return (-kind, 0, tmem)


def one_input(data: bytes) -> None:
    """One input; raises when something is wrong."""
    source = atheris.FuzzedDataProvider(data)
    outcome = (0, 0, False)
    for _ in range(STEPS_MAX):
        if not source.remaining_bytes():
            break
        outcome = step(source, LAB, outcome)
        if LAB.is_broken():
            LAB.detach()
            LAB.attach()
    LAB.check()


if __name__ == "__main__":
    LAB = Lab()
    seeds = ",".join(map(str, sorted((ROOT / "fuzz" / "corpus" / "ring").iterdir())))
    defaults = [f"-seed_inputs={seeds}", f"-max_len={INPUT_BYTES_MAX}", "-len_control=0"]
    atheris.Setup([sys.argv[0], *defaults, *sys.argv[1:]], one_input)
    atheris.Fuzz()
