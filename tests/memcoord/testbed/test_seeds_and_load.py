"""What a seed changes in a scenario, and what load is seen beside a run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.testbed.runs.load import OTHERS_CPUS_MAX, LoadMeter, busy_s
from memcoord.testbed.scenarios.schema import Scenario, parse
from memcoord.testbed.streams import stream_of
from memcoord.testbed.streams.seeds import START_SHIFT_MAX, has_randomness, seeds_of, varied

LOOP = {"kind": "loop", "size": "40 pages", "resident": "10 pages", "repeat": 3}
USEMEM = {"kind": "usemem", "step": "1 MiB", "most": "2 MiB", "resident": "10 pages", "sweeps": 1}


def scenario(*works: dict[str, Any], **late: Any) -> Scenario:
    plain = {"maxmem": "2 MiB", "ram": "2 MiB"}
    domains = [{"name": f"vm{n}", **plain, "workload": work} for n, work in enumerate(works)]
    domains[-1] |= late
    return parse({"name": "test", "memory": "16 MiB", "domain": domains})


def test_seeds_are_a_number_or_a_list() -> None:
    assert seeds_of("3", 7) == [7, 8, 9]
    assert seeds_of("5,1,9", 7) == [5, 1, 9]


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1,1", "1001", "1,-2", "1.5"])
def test_wrong_seeds_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        seeds_of(text, 1)


def test_a_repeated_program_begins_elsewhere_and_does_the_same_work() -> None:
    what = scenario(LOOP)
    one, other = (varied(what, seed).domain[0].workload for seed in (1, 2))
    first, second = stream_of(one, 0).pages, stream_of(other, 0).pages
    assert not np.array_equal(first, second)
    assert np.array_equal(np.sort(first), np.sort(second))
    assert varied(what, 1) == varied(what, 1)


def test_a_phase_is_a_fraction_of_a_round() -> None:
    work = scenario({**LOOP, "phase": 0.25}).domain[0].workload
    pages = stream_of(work, 0).pages
    assert pages[:3].tolist() == [10, 11, 12]
    assert len(pages) == 120


def test_a_late_start_is_shifted_a_little() -> None:
    what = scenario(USEMEM, USEMEM, start_when={"domain": "vm0", "done": 0.5})
    starts = [varied(what, seed).domain[1].start_when for seed in range(20)]
    done = [start.done for start in starts if start is not None]
    assert len(set(done)) == len(done) == 20
    assert max(abs(each - 0.5) for each in done) <= START_SHIFT_MAX


def test_a_scenario_knows_whether_it_has_randomness() -> None:
    assert has_randomness(scenario(LOOP), [1, 2])
    assert not has_randomness(scenario(USEMEM), [1, 2])
    assert not has_randomness(scenario(LOOP), [1])
    junk = {"kind": "junk", "size": "40 pages", "hot": "10 pages", "resident": "10 pages"}
    assert has_randomness(scenario(junk), [1, 2])


def stat(path: Path, user: int, steal: int) -> Path:
    path.write_text(f"cpu  {user} 0 0 99999 88888 0 0 {steal} 7 0\ncpu0 1 2 3\n")
    return path


def test_others_use_what_the_machine_used_and_we_did_not(tmp_path: Path) -> None:
    file = stat(tmp_path / "stat", 1000, 0)
    own, now = [5.0, 7.0], [100.0, 110.0]
    meter = LoadMeter(file, lambda: own.pop(0), lambda: now.pop(0))
    stat(file, 1300, 200)  # 3 s of work and 2 s taken by the machine's host, in 10 s
    load = meter.stop()
    assert load.others_cpus == pytest.approx((5.0 - 2.0) / 10.0)
    assert load.is_quiet == (load.others_cpus <= OTHERS_CPUS_MAX)
    assert not load.is_quiet


def test_waiting_is_no_load() -> None:
    assert busy_s(Path("/proc/stat")) > 0
