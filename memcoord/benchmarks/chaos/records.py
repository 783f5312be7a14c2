"""Malformed records, as many as are asked for, over every mechanism and both rings.

Owns: ``RecordsRun`` and its part of the result. One domain per mechanism sends records made in C
(``abi/malformed.h``) as fast as its rings take them. Each record must be answered within a bound.
Witnesses beside it keep checking what they own, and the books must be right in between and at the
end.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import msgspec

from hypervisor.config import HypervisorConfig
from hypervisor.public.errors import PeerGone
from hypervisor.public.settings import MECHANISMS
from memcoord.benchmarks.chaos.account import Account
from memcoord.benchmarks.chaos.host import ChaosHost
from memcoord.benchmarks.chaos.plan import VICTIMS, WITNESSES, Plan, configuration
from memcoord.testbed.runs.control_client import Refused
from memcoord.testbed.runs.remote import Remote, RemoteError

VARIANT = "compressed"
#: Between two looks at the books.
STEP_RECORDS = 1_000_000
#: A bad request too many ends a domain; here each record is one.
ERROR_BUDGET = 1 << 30
GUEST = "memcoord.benchmarks.hostile.guest"


class Told(msgspec.Struct):
    """What became of the records. ``lives``: how often a domain had to attach."""

    sent: int = 0
    answered: int = 0
    lives: int = 0
    seconds: float = 0.0
    per_second: dict[str, int] = {}
    broken: list[str] = []


def asked() -> HypervisorConfig:
    """The host: as of a plan, but nobody is thrown out for bad requests."""
    return msgspec.structs.replace(configuration(VARIANT), error_budget=ERROR_BUDGET)


class RecordsRun:
    """``count`` records with ``seed`` on ``host``; ``done`` is told how many so far."""

    def __init__(
        self, host: ChaosHost, account: Account, seed: int, done: Callable[[int], None]
    ) -> None:
        self._host, self._account, self._seed, self._done = host, account, seed, done
        self.told = Told()

    def send(self, count: int) -> None:
        """A part of the records from a domain of each mechanism."""
        plan = Plan(self._seed, VARIANT, 0, 0)
        with contextlib.ExitStack() as stack:
            for number in range(len(WITNESSES)):
                stack.callback(self._host.spawn(plan.witness(number)).kill)
            for number, mechanism in enumerate(MECHANISMS):
                share = count * (number + 1) // len(MECHANISMS) - count * number // len(MECHANISMS)
                self._send_as(VICTIMS[number], mechanism, share)

    def _send_as(self, name: str, mechanism: str, count: int) -> None:
        began_s = time.monotonic()
        guest = Remote(name, GUEST, str(self._host.run_dir), name, str(self._seed))
        with contextlib.closing(guest):
            lives = 0
            try:
                for part in _parts(count):
                    lives = self._send_part(guest, mechanism, part)
                    self._validate(mechanism)
            except RemoteError as error:
                self.told.broken.append(f"{mechanism}: {error}")
            self.told.lives += lives
        seconds = time.monotonic() - began_s
        self.told.seconds = round(self.told.seconds + seconds, 1)
        self.told.per_second[mechanism] = round(count / seconds) if seconds else 0

    def _send_part(self, guest: Remote, mechanism: str, count: int) -> int:
        """Send some; how often the domain has attached by now."""
        answer = guest.ask("malformed", count=count)
        self.told.sent += count
        self.told.answered += answer["answered"]
        if answer["unanswered"]:
            self.told.broken.append(f"{mechanism}: {answer['unanswered']} records had no answer")
        self._done(self.told.sent)
        return int(answer["lives"])

    def _validate(self, mechanism: str) -> None:
        try:
            self._host.ask("validate")
        except (Refused, PeerGone) as error:
            self.told.broken.append(f"{mechanism}: {error}")


def _parts(count: int) -> Iterator[int]:
    while count > 0:
        yield min(count, STEP_RECORDS)
        count -= STEP_RECORDS
