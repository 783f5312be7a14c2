"""A hypervisor that is killed at any instant is followed by one that lost nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial

import pytest
from killed_host import Keeper, live, live_on_tmem

from backend.host import HostBackend
from hypervisor.public.backend import DomainSpec
from hypervisor.public.settings import MECHANISMS
from hypervisor.public.units import AREA_FRAMES as AREA
from hypervisor.public.units import DomId

KILLS = 15
SLACK = 2
#: By mechanism; cmm has a thread of its own in its first design.
OPTIONS = {"cmm": {"design": 0}, "balloon": {"merge": 1, "report_ms": 20}}


def specs(*mechanisms: str) -> dict[DomId, DomainSpec]:
    return {
        DomId(domid): DomainSpec(
            name=name,
            mechanism=name,
            maxmem_frames=16 * AREA,
            boot_frames=2 * AREA,
            target_frames=10 * AREA,
            options=OPTIONS.get(name, {}),
        )
        for domid, name in enumerate(mechanisms)
    }


def move_targets(domids: list[DomId], host: HostBackend, chance: random.Random) -> None:
    """A policy that cannot make up its mind."""
    if chance.random() < 0.3:
        host.set_target(chance.choice(domids), chance.randrange(4, 13) * AREA)


def kill_under(mechanisms: tuple[str, ...], kills: int, *, tmem: bool, seed: int = 1) -> None:
    wanted = specs(*mechanisms)
    with Keeper(
        wanted,
        partial(move_targets, list(wanted)),
        total_frames=(10 * len(wanted) + SLACK + 4 * tmem) * AREA,
        slack_frames=SLACK * AREA,
        tmem_max_frames=8 * AREA if tmem else 0,
        tmem_dedup=tmem,
        tmem_compression=tmem,
        spin_ns=0,
    ) as keeper:
        keeper.start()
        for domid in wanted:
            keeper.admit(domid, live_on_tmem if tmem and domid % 2 else live)
        keeper.kill_again_and_again(kills, seed)
        keeper.check()


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_killed_hypervisor_loses_no_frame(mechanism: str) -> None:
    kill_under((mechanism, mechanism), KILLS, tmem=False)


def two_domains(mechanism: str, disturb: Callable[[HostBackend, random.Random], None]) -> Keeper:
    return Keeper(
        specs(mechanism, mechanism),
        disturb,
        total_frames=24 * AREA,
        slack_frames=SLACK * AREA,
        tmem_max_frames=0,
        spin_ns=0,
    )


def reboot_some(host: HostBackend, chance: random.Random) -> None:
    """Domain 0 has pins, which outlive its reboots."""
    domid = DomId(chance.randrange(2))
    if domid == 0:
        host.pin_dma(domid, 5, 3)
    host.set_tmem_target(domid, 77 + domid)
    host.reboot(domid)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_reboot_that_was_cut_off_is_carried_out_by_the_next(mechanism: str) -> None:
    with two_domains(mechanism, reboot_some) as keeper:
        keeper.start()
        keeper.kill_again_and_again(KILLS, 3)  # a domain that is broken fails here
        keeper.check()


def begin_reboot(host: HostBackend, chance: random.Random) -> None:
    """What the books say while domain 0 reboots: whoever is killed now has begun that."""
    host._host.domains[0].is_rebooting = 1


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_domain_in_the_midst_of_its_reboot_is_of_the_next_process_wholly(mechanism: str) -> None:
    with two_domains(mechanism, begin_reboot) as keeper:
        keeper.start()
        for _ in range(2):
            time.sleep(0.1)  # begin_reboot is called each 2 ms
            keeper.kill()
            keeper.start()
        keeper.check()


def test_a_killed_hypervisor_loses_no_page_of_tmem() -> None:
    kill_under(("direct", "direct", "hyperalloc", "virtio-mem"), KILLS, tmem=True)
