"""The plan of a chaos run, its slopes, and its result: without a hypervisor."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest

from backend.options import check_options
from hypervisor.config import check
from hypervisor.public import messages
from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.chaos import leaks
from memcoord.benchmarks.chaos.account import Account, Slot
from memcoord.benchmarks.chaos.bench import ChaosBench, ChaosOptions
from memcoord.benchmarks.chaos.plan import VARIANTS, VICTIMS, Plan, configuration, divided
from memcoord.commands.bench import bench


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_host_fits_together(variant: str) -> None:
    config = configuration(variant)
    check(config)
    check_options(config.domains, "domains")


def test_a_seed_gives_one_plan_in_whatever_order_it_is_asked() -> None:
    one, same, other = (Plan(seed, "banks", 100, 7) for seed in (4, 4, 5))
    lives = [(number, life) for number in range(len(VICTIMS)) for life in range(5)]
    drawn = {at: one.victim(*at) for at in lives}
    assert drawn == {at: same.victim(*at) for at in reversed(lives)}
    assert drawn != {at: other.victim(*at) for at in lives}
    assert len({life.seed for life, _ in drawn.values()}) == len(lives)
    verbs = list(itertools.islice(one.verbs(), 500))
    assert verbs == list(itertools.islice(same.verbs(), 500))
    assert one.hypervisor_deaths() == same.hypervisor_deaths() != other.hypervisor_deaths()


def test_verbs_are_operations_and_every_kind_comes() -> None:
    drawn = list(itertools.islice(Plan(1, "huge", 1, 0).verbs(), 2000))
    for op, arguments in drawn:
        assert not messages.check_args(messages.Request(1, 1, op, arguments))
    assert {"validate", "detach", "mem-set", "mem-pin", "tmem-shared-auth"} <= {
        op for op, _ in drawn
    }


@pytest.mark.parametrize(("kills", "hypervisor_kills"), [(2000, 100), (1, 0), (0, 2), (7, 5)])
def test_kills_are_divided_and_none_is_lost(kills: int, hypervisor_kills: int) -> None:
    plans = divided(1, kills, hypervisor_kills)
    assert sum(plan.kills for plan in plans) == kills
    deaths = [plan.hypervisor_deaths() for plan in plans]
    assert sum(map(len, deaths)) == hypervisor_kills
    for plan, at in zip(plans, deaths, strict=True):
        assert [one.after_kills for one in at] == sorted(one.after_kills for one in at)
        assert all(0 <= one.after_kills <= plan.kills for one in at)


def test_a_slope_is_that_of_the_line_and_its_interval_holds_it() -> None:
    xs = [float(x) for x in range(40)]
    exact = leaks.slope(xs, [3 * x + 1 for x in xs])
    assert exact.per_hour == pytest.approx(3)
    assert exact.high - exact.low == pytest.approx(0, abs=1e-9)
    dice, held = random.Random(2), 0
    for _ in range(400):
        noisy = leaks.slope(xs, [3 * x + dice.gauss(0, 5) for x in xs])
        held += noisy.low <= 3 <= noisy.high
    assert 365 <= held <= 395, "95 % of the intervals hold the slope"
    assert math.isnan(leaks.slope([1.0, 2.0], [1.0, 2.0]).per_hour)


def test_slopes_leave_out_the_warm_up() -> None:
    samples = [
        leaks.Sample(at_s=60.0 * n, pid=1, rss_anon_kib=100 * min(n, 10), fds=9, memfd_maps=3,
                     threads=4, files=5)
        for n in range(60)
    ]  # fmt: skip
    found = leaks.slopes(samples)
    assert found.keys() == set(leaks.FIGURES)
    assert found["rss_anon_kib"].per_hour == pytest.approx(0)


def test_counters_survive_the_process_that_counts(tmp_path: Path) -> None:
    with Account(tmp_path) as account:
        for number in (1, 1, 3):
            slot = Slot(tmp_path, number)
            slot.count("puts", 2)
            slot.problem(f"a problem of {number}")
            slot.close()
        slot = Slot(tmp_path, 3)
        first = slot.put_done(1 << 62)
        assert account.of(3, "gap_ns") == 0, "there is no gap before the first put"
        slot.put_done(first - 5)
        assert account.of(3, "gap_ns") >= 5
        slot.close()
        account.forget_gap(3)
        assert account.of(3, "gap_ns") == 0
        assert (account.of(1, "puts"), account.total("puts")) == (4, 6)
        assert [line.split()[-1] for line in account.problems()] == ["1", "1", "3"]


@pytest.mark.parametrize("word", ["lost_frames", "lost_pages", "wrong_pages", "broken_invariants"])
def test_any_loss_is_a_failure(word: str) -> None:
    healthy = dict.fromkeys(("lost_frames", "lost_pages", "wrong_pages", "broken_invariants"), 0)
    assert ChaosBench(ChaosOptions()).status(healthy) == 0
    assert ChaosBench(ChaosOptions()).status(healthy | {word: 1}) == 1


@pytest.mark.parametrize("hours", [float("nan"), float("inf"), -1.0])
def test_a_soak_has_an_end(hours: float) -> None:
    with pytest.raises(ConfigError, match="--soak: must be 0 to"):
        ChaosBench(ChaosOptions(soak=hours))


def test_options_of_chaos_are_of_chaos_alone() -> None:
    with pytest.raises(ConfigError, match="only for bench chaos"):
        bench("ring", True, None, None, {"hypervisor_kills": 3})
    with pytest.raises(ConfigError, match="only for bench policies"):
        bench("chaos", True, None, None, {"seeds": 3})
