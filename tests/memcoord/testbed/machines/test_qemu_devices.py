"""Goal: claims on virtio-mem hold of the real device. Method: one guest of two nodes, one cheat."""

from __future__ import annotations

import asyncio

import pytest

from memcoord.benchmarks.devices.guest import MIB, booted
from memcoord.benchmarks.devices.measures import MOVE_MIB, Measures
from memcoord.testbed.machines.image.build import Image
from memcoord.testbed.machines.spec import Plugged

pytestmark = [pytest.mark.qemu, pytest.mark.process, pytest.mark.timeout(300)]


@pytest.fixture
def measures(guest_image: Image) -> Measures:
    return Measures(guest_image.kernel, guest_image.initrd, "tcg", lambda stage: None)


def test_one_node_is_resized_by_2_mib_and_the_other_stays(measures: Measures) -> None:
    async def act() -> tuple[object, object]:
        plugged = tuple(Plugged(max_bytes=MOVE_MIB * MIB, node=node) for node in (0, 1))
        async with booted(measures.spec(plugged=plugged)) as guest:
            finest = await measures.plug(guest, 0, 2)
            await measures.plug(guest, 0, 0)
            await measures.nodes(guest)
            return finest["reached_mib"], finest["is_reached"]

    assert asyncio.run(act()) == (2.0, True)
    assert measures.facts["node_grew_mib"] == MOVE_MIB
    assert measures.facts["other_node_changed_mib"] == measures.facts["node_left_mib"] == 0


def test_a_guest_that_uses_an_unplugged_device_is_seen(measures: Measures) -> None:
    asyncio.run(measures.cheat())
    assert measures.facts["cheat_plugged_mib"] == 0
    assert measures.facts["cheat_resident_mib"] > 1
    assert measures.facts["cheat_qemu_runs"] == 1
