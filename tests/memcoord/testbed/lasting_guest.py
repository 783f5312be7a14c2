"""A domain that works until its standard input ends, and checks all that it was ever promised.

``lasting_guest.py RUN_DIR NAME DOORBELL SEED``: it prints "up", puts and gets pages of tmem, takes
and gives back frames, and at the end prints one JSON object: what it did, and what it found wrong.
A pause is a time between two answers.
"""

import json
import random
import select
import sys
import time

import frontend
from frontend.domain import Domain
from hypervisor.public.errors import NoMemory
from hypervisor.public.units import FRAME_BYTES, Frame

KEYS = 300
HELD = 400
PAUSE_S = 0.05
STAMP = 16


class Guest:
    """One domain, and what it knows to be true."""

    def __init__(self, domain: Domain, seed: int) -> None:
        self.domain, self.chance = domain, random.Random(seed)
        self.pool = domain.tmem.new_pool(persistent=True)
        self.frames = domain.alloc_many(HELD)
        self.buffer = domain.alloc()
        self.stored: dict[int, bytes] = {}
        self.told = dict.fromkeys(("puts", "refused", "gets", "lost", "wrong", "broken_frames"), 0)
        self.pauses: list[float] = []
        for frame in self.frames:
            self.write(frame, frame)

    def write(self, frame: Frame, value: int) -> bytes:
        stamp = value.to_bytes(STAMP, "little")
        view = self.domain.view(frame)
        view[:STAMP] = view[-STAMP:] = stamp
        return stamp

    def reads(self, frame: Frame, stamp: bytes) -> bool:
        view = self.domain.view(frame)
        return bytes(view[:STAMP]) == bytes(view[-STAMP:]) == stamp

    def put(self, number: int) -> None:
        key = self.chance.randrange(KEYS)
        stamp = self.write(self.buffer, number)
        if self.domain.tmem.put(self.pool, (1, 2, 3), key, self.buffer) == 1:
            self.stored[key] = stamp
            self.told["puts"] += 1
        else:
            self.stored.pop(key, None)
            self.told["refused"] += 1

    def get(self, key: int) -> None:
        stamp = self.stored.get(key)
        self.domain.view(self.buffer)[:] = bytes(FRAME_BYTES)
        got = self.domain.tmem.get(self.pool, (1, 2, 3), key, self.buffer)
        if stamp is not None:
            self.told["gets"] += 1
            self.told["lost"] += got != 1
            self.told["wrong"] += got == 1 and not self.reads(self.buffer, stamp)

    def breathe(self) -> None:
        """Take some frames and give them back, and sometimes whole areas to the host."""
        try:
            some = self.domain.alloc_many(self.chance.randrange(1, 600))
        except NoMemory:
            return
        for frame in some[::50]:
            self.write(frame, frame)
        self.domain.free_many(some)

    def check(self) -> None:
        """Everything that must be as it was left."""
        for key in list(self.stored):
            self.get(key)
        wrong = sum(not self.reads(one, one.to_bytes(STAMP, "little")) for one in self.frames)
        self.told["broken_frames"] += wrong

    def live(self) -> None:
        number, last_s = 0, time.monotonic()
        while not select.select([sys.stdin], [], [], 0)[0]:
            number += 1
            self.put(number)
            if number % 7 == 0:
                self.get(self.chance.randrange(KEYS))
            if number % 31 == 0:
                self.breathe()
            now_s = time.monotonic()
            if now_s - last_s > PAUSE_S:
                self.pauses.append(now_s - last_s)
            last_s = now_s
        self.check()


def main(run_dir: str, name: str, doorbell: str, seed: str) -> None:
    with frontend.attach(run_dir, name, doorbell=doorbell, timeout_s=60.0) as domain:
        guest = Guest(domain, int(seed))
        sys.stdout.write("up\n")
        sys.stdout.flush()
        guest.live()
        sys.stdout.write(json.dumps({**guest.told, "pauses": guest.pauses}))


if __name__ == "__main__":
    main(*sys.argv[1:])
