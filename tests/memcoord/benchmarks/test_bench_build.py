"""Goal: a build's memory is held as long as the build has it, and what is told of it adds up.

Method: a program that takes and frees in real domains, and looks made by hand; no clock, no build.
"""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from frontend.pager.program import environment, in_domain, run
from hypervisor.config import DomainConfig
from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.builds import bench, footprint, project, views
from memcoord.benchmarks.builds.guest import domain_name
from memcoord.benchmarks.builds.mirror import COLUMNS, MirroredFamily
from memcoord.benchmarks.builds.variants import BY_NAME, FIXED, REPORTING, VARIANTS, Variant
from memcoord.commands.bench import bench_of
from memcoord.testbed.live.hypervisor import Hypervisor
from memcoord.testbed.runs import userfaults

MIB_FRAMES = 256
GIB_FRAMES = 1024 * MIB_FRAMES
MOST_MIB, TAKEN_MIB = 192, 64
#: Takes memory, frees it, and takes half of it in a process that it starts.
TAKES = """
import subprocess, sys, time
def take(mib):
    kept = bytearray(mib << 20)
    kept[::4096] = b"1" * (mib * 256)
    time.sleep(0.4)
if len(sys.argv) == 1:
    take(64)
    subprocess.run([sys.executable, sys.argv[0], "32"], check=True)
else:
    take(int(sys.argv[1]))
"""
GIVING_BACK = [variant for variant in VARIANTS if variant.mechanism != "virtio-mem"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hypervisor]:
    obstacle = userfaults.probe().obstacle()
    if obstacle:
        pytest.skip(obstacle)
    domains = [
        DomainConfig(
            name=domain_name(variant.name),
            maxmem_frames=MOST_MIB * MIB_FRAMES,
            boot_frames=16 * MIB_FRAMES,
            target_frames=MOST_MIB * MIB_FRAMES,
            ram_min_frames=16 * MIB_FRAMES,
            mechanism=variant.mechanism,
            options={"report_ms": 50} if variant.options.get("report_ms") else {},
            credit_areas=variant.credit_areas,
        )
        for variant in VARIANTS
    ]
    directory = tmp_path_factory.mktemp("run")
    memory = f"{MOST_MIB * (len(domains) + 1)} MiB"
    with Hypervisor(memory, domains=domains, run_dir=directory) as hypervisor:
        yield hypervisor


def mirrored(served: Hypervisor, variant: Variant, tmp_path: Path) -> tuple[Any, list[Any]]:
    """The outcome of TAKES in a domain of ``variant``, and its looks."""
    script, written = tmp_path / "takes.py", tmp_path / "written"
    script.write_text(TAKES, encoding="utf-8")
    written.write_bytes(bytes(8 << 20))
    where = str(served.run_dir), domain_name(variant.name), 0, variant.mechanism, str(tmp_path)
    with in_domain(*where, family_of=MirroredFamily) as (domain, family):
        assert isinstance(family, MirroredFamily)
        family.begin([str(written)], variant.asks, variant.agent, lambda frames: None)
        env = environment(dict(os.environ), family)
        argv = [sys.executable, str(script)]
        outcome = run(lambda: subprocess.Popen(argv, env=env), domain, family, limit_s=100.0)
        family.hold(0.6)
        looks = list(zip(*[iter(family.looks)] * COLUMNS, strict=True))
    return outcome, looks


@pytest.mark.process
@pytest.mark.parametrize("variant", GIVING_BACK, ids=lambda variant: domain_name(variant.name))
def test_a_domain_holds_what_its_program_has(
    served: Hypervisor, variant: Variant, tmp_path: Path
) -> None:
    outcome, looks = mirrored(served, variant, tmp_path)
    assert (outcome.exit_code, outcome.limited) == (0, "")
    used, held, resident = (max(look[column] for look in looks) for column in (1, 2, 3))
    assert used >= TAKEN_MIB * MIB_FRAMES
    assert held == used
    # Its frames have pages: those of the program and of what it wrote.
    assert resident >= held
    # At the end only what it wrote is held; each frame was given back to the domain's allocator.
    assert looks[-1][2] == (8 * MIB_FRAMES)
    assert looks[-1][1] == looks[-1][2]
    if variant.name == FIXED:
        assert looks[-1][3] >= used
    elif variant.name != "hyperalloc":  # whose period is 5 s
        assert looks[-1][3] < TAKEN_MIB * MIB_FRAMES / 2


def looks_of(rows: list[tuple[float, float, float, float, float]]) -> bytes:
    return array("d", [value for row in rows for value in row]).tobytes()


def test_figures_of_a_build_that_is_known() -> None:
    gib = float(GIB_FRAMES)
    looks = looks_of([
        (0.0, gib, gib, gib, 2 * gib),
        (60.0, gib, gib / 2, 2 * gib, 2 * gib),
        (120.0, 0.0, 0.0, gib, 2 * gib),
        (180.0, 0.0, 0.0, gib / 2, 2 * gib),
        (240.0, 0.0, 0.0, gib / 4, 2 * gib),
    ])  # fmt: skip
    found = footprint.figures(looks, delay_s=120.0, clean_s=200.0)
    assert found["build_gib_min"] == pytest.approx(1 + 2)
    assert found["mean_gib"] == pytest.approx(1.5)
    assert found["over_use"] == pytest.approx(3 / 2)
    assert found["total_gib_min"] == pytest.approx(1 + 2 + 1 + 0.5)
    assert found["guest_gib_min"] == pytest.approx(2)
    assert found["charged_mean_gib"] == pytest.approx(2)
    assert found["late_gib_min"] == pytest.approx(0.5)
    assert (found["peak_gib"], found["guest_peak_gib"]) == (2, 1)
    assert (found["after_delay_gib"], found["after_clean_gib"]) == (0.5, 0.25)
    assert footprint.series(looks)["resident"][60] == pytest.approx(2)


def cells_of(by_variant: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A cell per value: every figure of it is that value."""
    keys = [*footprint.figures(looks_of([(0, 1, 1, 1, 1), (1, 1, 1, 1, 1)]), 1, 1)]
    keys += [*footprint.COMPARED, *(key for key, _ in views.COST.values())]
    return [
        {"round": index, "variant": name, "figures": dict.fromkeys(keys, value),
         "load_before_1m": 1.0, "pager": {"faults": 0}, "series": {"s": [], "guest": [],
                                                                   "resident": []}}
        for name, values in by_variant.items()
        for index, value in enumerate(values)
    ]  # fmt: skip


def test_variants_are_compared_within_a_round() -> None:
    # Round 2 is twice as slow for all: the difference stays.
    found = footprint.comparisons(cells_of({REPORTING: [10, 20], "hyperalloc": [8, 16]}))
    below = found["hyperalloc"][f"build_gib_min below {REPORTING}"]
    assert below == {"value": pytest.approx(20), "low": pytest.approx(20),
                     "high": pytest.approx(20), "n": 2}  # fmt: skip
    assert found["hyperalloc"][f"wall_s below {FIXED}"]["value"] is None


def result_of(cells: list[dict[str, Any]]) -> dict[str, Any]:
    made = bench.BuildBench(bench.BuildOptions(quick=True))
    found = made._result(cells, "cut short after 3 of 4 builds", {"cpu": "a CPU", "cores": 2})
    return dict(msgspec.json.decode(msgspec.json.encode({**found, "errors": ["round 0: none"]})))


def test_tables_of_a_run_that_was_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "TOOLS", ("make",))
    found = result_of(cells_of({FIXED: [12], REPORTING: [10], "hyperalloc": [9]}))
    text = views.markdown(found)
    assert "| hyperalloc | +10.0 | +10.0 | +10.0 |" in text
    assert "| in use (lower bound) | 10.33 |" in text
    assert "- cut short after 3 of 4 builds" in text
    assert "- round 0: none" in text
    assert len(views.figure(found).lines) == 4
    # A build that never ran leaves a table without its line.
    assert views.markdown(result_of([]))


def test_what_is_built_is_spread_over_the_project() -> None:
    assert project.tests_of(1.0) == project.FULL
    assert len(set(project.FULL)) == len(project.FULL)
    few = project.tests_of(bench.QUICK_SCALE)
    assert [project.FULL.index(name) for name in few] == [0, 12, 25]
    assert len(project.tests_of(0.0001)) == project.LEAST


def test_the_mirror_of_the_package_manager_comes_first(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "debian.sources").write_text(
        "Types: deb\nURIs: http://near.example/debian\nSuites: x\n\n"
        "Types: deb\nURIs: http://near.example/debian-security\nSuites: y\n"
    )
    (tmp_path / "sources.list").write_text("deb [trusted=yes] https://old.example/debian x main\n")
    wanted = ["https://old.example/debian", "http://near.example/debian", project.FALLBACK_MIRROR]
    assert project.mirrors(tmp_path) == wanted
    assert project.mirrors(tmp_path / "none") == [project.FALLBACK_MIRROR]


def test_a_source_that_cannot_be_had_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(project, "TOOLS", ())
    monkeypatch.setattr(project, "mirrors", lambda: [f"file://{tmp_path}/none"])
    with pytest.raises(project.NoProject, match="cannot be reached") as told:
        project.ready(tmp_path, 0.1)
    assert "\n" not in str(told.value)
    other = tmp_path / project.FILE
    other.parent.mkdir(parents=True)
    other.write_bytes(b"something else")
    monkeypatch.setattr(project, "mirrors", lambda: [f"file://{tmp_path}"])
    with pytest.raises(project.NoProject, match="another file"):
        project.ready(tmp_path, 0.1)
    monkeypatch.setattr(project, "TOOLS", ("no-such-tool",))
    with pytest.raises(project.NoProject, match="no-such-tool not installed"):
        project.ready(tmp_path, 0.1)


@pytest.mark.parametrize("options", [{"scale": 1.5}, {"scale": 0.0}])
def test_a_wrong_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="scale"):
        bench_of("build", None, options)
    with pytest.raises(ConfigError, match="rounds"):
        bench_of("build", 0)


def test_every_variant_has_a_name_of_its_own() -> None:
    assert len({domain_name(name) for name in BY_NAME}) == len(VARIANTS)
