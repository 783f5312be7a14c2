"""What a chaos run does, drawn from a seed: who lives how long, what an operator does meanwhile.

Owns: ``Plan``, and the host configurations (``VARIANTS``) a run divides its kills among. What is
drawn for one life depends on the seed, the domain and the number of the life alone, so that a seed
gives the same plan however fast the machine is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from hypervisor.config import BankConfig, DomainConfig, HypervisorConfig
from hypervisor.public.settings import MECHANISMS
from hypervisor.public.units import AREA_FRAMES

TOTAL_AREAS, SLACK_AREAS = 96, 4
BOOT_AREAS, TARGET_AREAS, MAX_AREAS = 2, 8, 16
WITNESS_TARGET_AREAS, WITNESS_MAX_AREAS = 6, 8
WITNESS_TMEM_AREAS = 4
INTERVAL_MS = 50
ERROR_BUDGET = 64
#: Sizes as small as the others', so that every mechanism has something to shrink.
OPTIONS = {"sections": {"section_areas": 1}, "virtio-mem": {"block_areas": 1}}
WITNESSES = ("witness0", "witness1")
WITNESS_MECHANISMS = ("direct", "balloon")
VICTIMS = tuple(f"victim{number}" for number in range(len(MECHANISMS)))
#: Of the pools that domains share, once an operator allows it.
UUIDS = ("00000000-0000-0000-0000-00000000c0de", "00000000-0000-0000-0000-00000000beef")
#: A victim lives from before it has attached to long after: 10 ** these, in seconds.
AGE_LOG10_S = (-3.3, -0.3)
STOPPED_SHARE, STOPPED_S_MAX = 0.05, 0.3
VERB_EACH_S = 0.05
#: Of the hypervisor's deaths, those that come while it is taking over from the one before.
AT_ONCE_SHARE = 0.1


class Life(msgspec.Struct, frozen=True):
    """One process that is to be a domain; what the fork server is told of it."""

    name: str
    slot: int
    seed: int
    is_witness: bool
    doorbell: str


@dataclass(frozen=True)
class Death:
    """When a victim is killed, counted from its start; and whether it is stopped for a while."""

    age_s: float
    stop_at_s: float = -1.0  # below 0: never
    stopped_s: float = 0.0


@dataclass(frozen=True, order=True)
class HypervisorDeath:
    """A kill of the hypervisor once so many domains were killed, a moment after it has answered.

    ``is_at_once``: as soon as one is back after the kill before, whether it serves yet or not.
    """

    after_kills: int
    delay_s: float
    is_at_once: bool


#: Settings of a host that exclude each other, or of which each is to be seen without the others.
VARIANTS: dict[str, dict[str, Any]] = {
    "compressed": {"tmem_compression": True},
    "banks": {"backing": "4k", "tmem_dedup": True, "banks": (0.75, 0.25)},
    "huge": {"backing": "2m", "tmem_dedup": True, "tmem_compression": True},
}


def configuration(variant: str) -> HypervisorConfig:
    """A host with two witnesses and a victim per mechanism, more than its memory if all grow."""
    settings = dict(VARIANTS[variant])
    total = TOTAL_AREAS * AREA_FRAMES
    shares = settings.pop("banks", ())
    witnesses = [
        DomainConfig(
            name=name,
            maxmem_frames=WITNESS_MAX_AREAS * AREA_FRAMES,
            boot_frames=BOOT_AREAS * AREA_FRAMES,
            target_frames=WITNESS_TARGET_AREAS * AREA_FRAMES,
            tmem_max_pages=WITNESS_TMEM_AREAS * AREA_FRAMES,
            mechanism=mechanism,
            opt_out=True,
        )
        for name, mechanism in zip(WITNESSES, WITNESS_MECHANISMS, strict=True)
    ]
    victims = [
        DomainConfig(
            name=name,
            maxmem_frames=MAX_AREAS * AREA_FRAMES,
            boot_frames=BOOT_AREAS * AREA_FRAMES,
            target_frames=TARGET_AREAS * AREA_FRAMES,
            mechanism=mechanism,
            options=OPTIONS.get(mechanism, {}),
        )
        for name, mechanism in zip(VICTIMS, MECHANISMS, strict=True)
    ]
    return HypervisorConfig(
        total_frames=total,
        slack_frames=SLACK_AREAS * AREA_FRAMES,
        interval_ms=INTERVAL_MS,
        error_budget=ERROR_BUDGET,
        banks=tuple(BankConfig(round(total * share)) for share in shares),
        domains=(*witnesses, *victims),
        **settings,
    )


@dataclass(frozen=True)
class Plan:
    """The part of a run that one host goes through."""

    seed: int
    variant: str
    kills: int
    hypervisor_kills: int

    def _dice(self, *what: object) -> random.Random:
        return random.Random("/".join(map(str, (self.seed, self.variant, *what))))

    def witness(self, number: int) -> Life:
        """A process that is never killed; one rings by futex, one over ZeroMQ."""
        seed = self._dice("witness", number).getrandbits(32)
        return Life(WITNESSES[number], number, seed, True, ("futex", "zmq")[number % 2])

    def victim(self, number: int, life: int) -> tuple[Life, Death]:
        """The life of this number of a victim, and its end."""
        dice = self._dice("victim", number, life)
        doorbell = dice.choice(("futex", "futex", "zmq"))
        made = Life(VICTIMS[number], len(WITNESSES) + number, dice.getrandbits(32), False, doorbell)
        age_s = 10 ** dice.uniform(*AGE_LOG10_S)
        if dice.random() >= STOPPED_SHARE:
            return made, Death(age_s)
        return made, Death(age_s, dice.uniform(0, age_s), dice.uniform(0.001, STOPPED_S_MAX))

    def hypervisor_deaths(self) -> list[HypervisorDeath]:
        """When the hypervisor is killed, in order."""
        dice, each = self._dice("hypervisor"), self.kills / max(self.hypervisor_kills, 1)
        return [
            HypervisorDeath(
                after_kills=int((n + dice.random()) * each),
                delay_s=dice.uniform(0, INTERVAL_MS / 1000),
                is_at_once=n > 0 and dice.random() < AT_ONCE_SHARE,
            )
            for n in range(self.hypervisor_kills)
        ]

    def verbs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What the operator asks for, one after the other, without end."""
        dice = self._dice("verbs")
        while True:
            yield _verb(dice)


def _verb(dice: random.Random) -> tuple[str, dict[str, Any]]:
    domain = {"domain": dice.choice(VICTIMS)}
    what = dice.random()
    if what < 0.35:
        most = MAX_AREAS * AREA_FRAMES
        frames = dice.choice((-1, 0, AREA_FRAMES, most // 4, most, dice.randrange(most)))
        return "mem-set", domain | {"target_frames": frames}
    if what < 0.50:
        return "tmem-set", domain | {"target_pages": dice.choice((-1, 0, 100, 4000))}
    if what < 0.60:
        return dice.choice(("tmem-freeze", "tmem-thaw")), domain
    if what < 0.65:
        return "detach", domain
    if what < 0.75:
        everyone = {"domain": dice.choice((*WITNESSES, *VICTIMS)), "uuid": dice.choice(UUIDS)}
        return "tmem-shared-auth", everyone | {"allow": dice.random() < 0.8}
    if what < 0.90:
        frame, most = dice.randrange(BOOT_AREAS * AREA_FRAMES), AREA_FRAMES
        pinned = domain | {"frame": frame, "count": dice.randrange(1, most)}
        return dice.choice(("mem-pin", "mem-pin", "mem-unpin")), pinned
    if what < 0.92:
        return "tmem-weight", domain | {"weight": dice.choice((0, 1, 100))}
    return "validate", {}


def divided(seed: int, kills: int, hypervisor_kills: int) -> list[Plan]:
    """The plans of a run: its kills divided among the variants."""
    count = len(VARIANTS)

    def part(of: int, number: int) -> int:
        return of * (number + 1) // count - of * number // count

    plans = [
        Plan(seed, variant, part(kills, number), part(hypervisor_kills, number))
        for number, variant in enumerate(VARIANTS)
    ]
    return [plan for plan in plans if plan.kills or plan.hypervisor_kills]
