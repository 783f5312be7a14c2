"""Scenarios at another size: the ratio of need to memory stays, and a look is called one."""

import pytest

from hypervisor.public.errors import ConfigError
from hypervisor.public.units import AREA_BYTES, FRAME_BYTES
from memcoord.testbed.runs import facts
from memcoord.testbed.scenarios.scale import at_scale, scaled
from memcoord.testbed.scenarios.schema import (
    Scenario,
    load,
    parse,
    shipped,
    to_hypervisor_config,
)
from memcoord.testbed.streams import domain_seed, lengths_of, stream_of

MIB = 1 << 20


def pages_of(what: Scenario) -> list[int]:
    """The pages that each domain's programs have."""
    return [
        stream_of(one.workload, domain_seed(what.seed, one.name)).page_count for one in what.domain
    ]


@pytest.mark.parametrize("name", ["usemem", "graph", "loop", "bursts", "analytics", "scarce"])
def test_need_and_memory_grow_together(name: str) -> None:
    what = load(name)
    twice = scaled(what, 2)
    assert twice.memory == 2 * what.memory
    assert [one.ram for one in twice.domain] == [2 * one.ram for one in what.domain]
    for more, before in zip(pages_of(twice), pages_of(what), strict=True):
        assert more == pytest.approx(2 * before, rel=0.02)


def test_full_size_and_the_written_one_are_a_round_trip() -> None:
    for name in shipped():
        what = load(name)
        full, said = at_scale(what, None)
        assert said == ""
        assert full.scale == 1
        if what.scale > 1 and what.length == 1:
            back = scaled(full, 1 / what.scale)
            assert (back.domain, back.memory) == (what.domain, what.memory), name


def test_at_full_size_the_largest_program_has_100_mib() -> None:
    traced = {"main", "mechanisms"}  # recorded programs have the pages they have
    for name in set(shipped()) - traced:
        what = load(name)
        assert max(pages_of(what)) * what.scale * FRAME_BYTES >= 100 * MIB, name


def test_at_full_size_every_program_computes_for_10_s_and_200_intervals() -> None:
    short = {
        "main": "so that the default demo is over within a minute",
        "mechanisms": "traces: what it pages takes longer than what it computes",
        "usemem": "it pages at nearly every reference",
    }
    for name in set(shipped()) - set(short):
        what = load(name)
        lengths = lengths_of(what).values()
        compute_s = max(max(lengths), sum(lengths) / 2) * what.scale * what.length * 1e-6
        assert compute_s >= 10, name
        assert compute_s * 1000 >= 200 * what.interval_ms, name


def test_a_longer_scenario_goes_on_in_the_same_memory_at_full_size_only() -> None:
    what = load("usemem")
    full, _ = at_scale(what, None)
    assert what.length > 1
    assert full.length == 1
    assert full.domain[0].workload.sweeps == what.length * what.domain[0].workload.sweeps
    assert full.memory == what.memory * what.scale
    assert at_scale(what, 0.5)[0].domain[0].workload.sweeps == what.domain[0].workload.sweeps


def test_a_host_of_16_gib_and_a_domain_of_it_are_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(facts, "usable_bytes", lambda: 32 << 30)
    work = {"kind": "loop", "size": "15 GiB", "resident": "2 MiB", "repeat": 300}
    domain = {"name": "vm1", "maxmem": "15 GiB", "ram": "4 MiB", "workload": work}
    what = parse({"name": "large", "memory": "16 GiB", "domain": [domain]})
    config = to_hypervisor_config(what, "greedy")
    assert config.total_frames == 1 << 22
    assert config.domains[0].maxmem_frames == 15 << 18
    assert lengths_of(what)["vm1"] == 300 * (15 << 18) > 10**9


def test_a_look_says_that_it_is_one() -> None:
    small, said = at_scale(load("usemem"), 1 / 16)
    assert small.domain == load("usemem").domain
    assert "a look, not a result" in said
    assert said.startswith("at 0.0625 of its full size")


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_is_a_part_of_the_whole(share: float) -> None:
    with pytest.raises(ConfigError, match="--scale"):
        at_scale(load("usemem"), share)


def test_sizes_stay_whole_areas_and_never_vanish() -> None:
    tiny = scaled(load("mixed"), 0.3)
    for one in tiny.domain:
        assert one.ram % AREA_BYTES == one.maxmem % AREA_BYTES == 0
        assert one.ram > 0


def test_a_traced_program_is_repeated_more_often_in_the_same_memory() -> None:
    work = {"kind": "page-trace", "trace": "sort", "resident": "10 pages", "repeat": 2}
    plain = {"name": "vm1", "maxmem": "4 MiB", "ram": "2 MiB", "workload": work}
    what = parse({"name": "t", "memory": "16 MiB", "scale": 4, "domain": [plain]})
    full, _ = at_scale(what, None)
    assert full.memory == what.memory
    assert (
        full.domain[0].workload
        == parse(
            {
                "name": "t",
                "memory": "16 MiB",
                "domain": [{**plain, "workload": {**work, "repeat": 8}}],
            }
        )
        .domain[0]
        .workload
    )
