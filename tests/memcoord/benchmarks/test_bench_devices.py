"""Goal: what is said of the real devices follows from what was seen. Method: made-up figures."""

from __future__ import annotations

import pytest

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.devices.bench import NOT_THE_DEVICE, DevicesBench, judged
from memcoord.benchmarks.devices.guest import POINTS_MAX, row
from memcoord.commands.bench import bench_of

FACTS = {
    "finest_mib": 2.0,
    "node_grew_mib": 128.0,
    "node_left_mib": 0.0,
    "other_node_changed_mib": 0.0,
    "after_reboot_mib": 64.0,
    "asked_of_reboot_mib": 64.0,
    "cheat_plugged_mib": 0.0,
    "cheat_resident_mib": 62.0,
}


def test_a_resize_is_told_by_its_points() -> None:
    found = row(256.0, 128.0, [(0.5, 254.0), (0.75, 192.0), (1.0, 128.0)])
    assert (found["first_s"], found["done_s"]) == (0.5, 1.0)
    assert (found["least_step_mib"], found["reached_mib"]) == (2.0, 128.0)
    assert found["is_reached"]


def test_a_resize_that_stops_short_or_never_begins() -> None:
    short = row(256.0, 128.0, [(0.5, 192.0)])
    assert (short["is_reached"], short["reached_mib"]) == (False, 192.0)
    never = row(256.0, 128.0, [])
    assert (never["is_reached"], never["reached_mib"], never["done_s"]) == (False, 256.0, None)


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    points = [(at / 100, float(at)) for at in range(1, 1001)]
    kept = row(0.0, 1000.0, points)["points"]
    assert isinstance(kept, list)
    assert len(kept) <= POINTS_MAX + 1 + 1
    assert kept[-1] == points[-1]


def test_the_claims_hold_by_what_was_seen() -> None:
    assert judged(FACTS) == {"finest_mib": 2.0, "nodes_apart": 1.0, "reboot": 1.0, "unnoticed": 0.0}


@pytest.mark.parametrize(
    ("fact", "value", "claim", "judged_as"),
    [
        ("node_grew_mib", 0.0, "nodes_apart", 0.0),
        ("other_node_changed_mib", 2.0, "nodes_apart", 0.0),
        ("node_left_mib", 128.0, "nodes_apart", 0.0),
        ("after_reboot_mib", 128.0, "reboot", 0.0),
        ("cheat_resident_mib", 0.0, "unnoticed", 1.0),
    ],
)
def test_a_claim_fails_by_what_was_seen(
    fact: str, value: float, claim: str, judged_as: float
) -> None:
    assert judged({**FACTS, fact: value})[claim] == judged_as


def test_the_option_is_of_this_bench_alone() -> None:
    assert isinstance(bench_of("mechanisms", None, {"qemu": True}), DevicesBench)
    with pytest.raises(ConfigError, match="only for bench mechanisms"):
        bench_of("grant", None, {"qemu": True})
    with pytest.raises(ConfigError, match="shapes do not vary"):
        bench_of("mechanisms", 3, {"qemu": True})


@pytest.mark.parametrize(("accelerator", "is_said"), [("tcg", True), ("kvm", False)])
def test_a_table_of_an_emulated_guest_says_so(accelerator: str, is_said: bool) -> None:
    rows = {"balloon grow": row(0.0, 1.0, [(1.0, 1.0)])}
    result = {
        "accelerator": accelerator,
        "rows": rows,
        "models": rows,
        "facts": FACTS,
        "kernel": "k",
    }
    bench = DevicesBench()
    first = next(bench.tables(result))
    assert (NOT_THE_DEVICE in first.title) is is_said
    assert "finest step of virtio-mem: 2 MiB" in "\n".join(bench.lines(result))
    assert NOT_THE_DEVICE in bench.parts({**result, "accelerator": "tcg"})["devices"]
