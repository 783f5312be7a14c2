"""A guest may write any word of its meta at any time; nobody but itself may feel it."""

from __future__ import annotations

import random

from backend_steps import close_domain, ledger, spec
from guest_double import GuestDouble

from backend.host import HostBackend
from frontend._guest import ffi, lib
from hypervisor.coordination.feed import statistics_of
from hypervisor.public.errors import Status
from hypervisor.public.messages import VERSION, Reply, encode
from hypervisor.public.units import AREA_FRAMES, DomId

AREA = AREA_FRAMES
WORD_MAX = 2**64 - 1
#: What the state machine of an area knows, and a few words it does not.
AREA_WORDS = (0x200, 0x1C00, 0xA00, 0x0, 0x400, 0x3FF, 0x600, 0x1E00)
BURST_WORDS = 100


class Hostile:
    """A domain whose guest writes random words all over its meta, and asks for things meanwhile."""

    SECTIONS = ("memory_ring", "tmem_ring", "trees", "areas", "rows", "heads", "slots")

    def __init__(self, backend: HostBackend, domid: int, rng: random.Random) -> None:
        self.backend, self.domid, self.rng = backend, DomId(domid), rng
        self.guest: GuestDouble | None = None
        self.corruptions = self.lives = 0
        self.open()

    def open(self) -> None:
        name = f"hostile{self.domid}"
        handles = self.backend.open(self.domid, spec(name, credit=2))
        self.guest = guest = GuestDouble(handles)
        self.words = (
            memoryview(ffi.buffer(ffi.cast("char *", guest.meta), handles.meta_bytes))
            .cast("B")
            .cast("Q")
        )
        # Bounds are read while they are what the hypervisor wrote.
        starts = [0] + [getattr(guest.control, f"{name}_offset") // 8 for name in self.SECTIONS]
        bounds = list(zip(starts, [*starts[1:], len(self.words)], strict=True))
        # A broken ring ends the domain: some lives leave the rings alone, to live longer.
        self.sections = bounds if self.rng.random() < 0.3 else [bounds[0], *bounds[3:]]
        self.lives += 1

    def close(self) -> None:
        self.words.release()
        close_domain(self.backend, self.domid)
        assert self.guest is not None
        self.guest.close()

    def burst(self) -> None:
        """Corrupt, say something, corrupt again before it is served."""
        rng, words = self.rng, self.words
        for _ in range(BURST_WORDS):
            start, end = rng.choice(self.sections)
            low, high = rng.choice(AREA_WORDS), rng.choice(AREA_WORDS)
            value = rng.choice((rng.getrandbits(64), WORD_MAX, 0, low | high << 32, low))
            words[rng.randrange(start, end)] = value
        self.corruptions += BURST_WORDS
        self.say()

    def say(self) -> None:
        rng, guest = self.rng, self.guest
        assert guest is not None
        tmem = rng.random() < 0.5
        front = guest._fronts[tmem]
        op = rng.choice((16, 17, 18, 19, 20, 21) if tmem else (1, 1, 2, 3, 3))
        record = ffi.new("struct mc_record *", {"op": op, "flags": rng.getrandbits(16)})
        for index in range(5):
            record.arg[index] = rng.choice((rng.randrange(1, 9), rng.getrandbits(64), 0))
        record.arg[4] = rng.randrange(8 * AREA)
        if lib.mc_front_push(front, record) == 0:
            lib.mc_front_publish(front)
        while lib.mc_front_pop(front, record) > 0:
            pass
        lib.mc_eventfd_ring(guest.handles.bell_fd)


def look(backend: HostBackend) -> None:
    """All that the hypervisor's main thread does with a domain's words in one tick."""
    backend.validate()
    backend.beat()
    now = backend.snapshot()
    assert ledger(now) == now.total_frames
    encode(Reply(VERSION, 1, "", statistics_of(now)))
    backend.latencies()


def test_hundreds_of_thousands_of_corruptions_hurt_nobody_else(backend: HostBackend) -> None:
    rng = random.Random(20)
    honest = GuestDouble(backend.open(DomId(0), spec("honest", boot=1)))
    pool, _ = honest.send(lib.MC_OP_NEW_POOL, 1 | 1 << 24, tmem=True)
    kept = honest.alloc()
    page = honest.bytes_of(kept)
    page[:] = rng.randbytes(4096)
    before = bytes(page[:])
    assert honest.send(lib.MC_OP_PUT, pool, 1, 2, 3, kept, tmem=True)[0] == 1
    hostiles = [Hostile(backend, domid, rng) for domid in (1, 2)]
    for round_ in range(1000):
        for hostile in hostiles:
            hostile.burst()
        assert honest.grow()[0] in (1, Status.ENOMEM, Status.ETARGET)
        frame = honest.alloc(9)
        if frame >= 0:
            assert bytes(honest.bytes_of(frame)[:64]) in (bytes(64), b"\x5a" * 64)
            honest.bytes_of(frame)[:64] = b"\x5a" * 64
            assert honest.free(frame, 9) == 0
        assert honest.send(lib.MC_OP_RELEASE, 8)[0] >= 0
        if round_ % 10 == 0:
            look(backend)
            ended = {domid for domid, _ in backend.broken()}
            assert DomId(0) not in ended
            for hostile in hostiles:
                if hostile.domid in ended:
                    hostile.close()
                    hostile.open()
    assert bytes(page[:]) == before
    page[:] = bytes(4096)
    assert honest.send(lib.MC_OP_GET, pool, 1, 2, 3, kept, tmem=True)[0] == 1
    assert bytes(page[:]) == before
    assert backend.snapshot().domains[0].bad_requests == 0
    assert sum(hostile.corruptions for hostile in hostiles) == 200_000
    assert min(hostile.lives for hostile in hostiles) > 1
    for hostile in hostiles:
        hostile.close()
    honest.close()
