"""Goal: a scenario that is wrong says where, in one line. Method: break the shipped one."""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor import config
from hypervisor.public.errors import ConfigError
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, areas_of
from memcoord.testbed.runs import facts
from memcoord.testbed.scenarios import schema
from memcoord.testbed.scenarios.workloads import title_of

MIB = 1 << 20


def document() -> dict[str, Any]:
    """A small valid scenario, decoded; tests break it."""
    return tomllib.loads(
        """
        name = "small"
        memory = "12 MiB"
        slack = "2 MiB"
        policies = ["greedy"]
        [[domain]]
        name = "vm1"
        maxmem = "8 MiB"
        ram = "2 MiB"
        workload = { kind = "page-trace", trace = "sort", resident = "100 pages" }
        [[domain]]
        name = "vm2"
        maxmem = "4 MiB"
        ram = "4 MiB"
        tmem_min = "1 MiB"
        workload = { kind = "page-trace", trace = "cc1", resident = "1 MiB", repeat = 2 }
        """
    )


@pytest.mark.parametrize("name", schema.shipped())
def test_every_shipped_scenario_is_valid(name: str) -> None:
    found = schema.load(name)
    for policy in found.policies:
        config.check(schema.to_hypervisor_config(found, policy))


def test_the_default_is_three_programs_short_of_memory() -> None:
    found = schema.load()
    assert [title_of(domain.workload) for domain in found.domain] == ["sort", "cc1", "sqlite"]
    ram = sum(areas_of(domain.ram.frames) * AREA_FRAMES for domain in found.domain)
    tmem = found.memory.frames - found.slack.frames - ram
    distinct_pages = 1_844 + 3_439 + 1_049
    resident = sum(domain.workload.resident.frames for domain in found.domain)
    assert 0 < tmem < distinct_pages - resident
    assert found.domain[2].start_when is not None


def test_no_shipped_scenario_starts_by_the_clock() -> None:
    for name in schema.shipped():
        assert all(domain.start_after_s == 0 for domain in schema.load(name).domain), name


def test_sizes_become_frames() -> None:
    made = schema.to_hypervisor_config(schema.parse(document()), "smart-alloc:P=2")
    assert made.policy == "smart-alloc:P=2"
    assert made.total_frames == 12 * MIB // FRAME_BYTES
    assert made.domains[1].maxmem_frames == made.domains[1].boot_frames == 1024
    assert made.domains[1].tmem_min_pages == 256
    assert made.domains[0].tmem_max_pages == -1


def set_key(raw: dict[str, Any], path: str, value: object) -> None:
    """Set ``path`` ("domain.1.ram"), or delete it when ``value`` is None."""
    *steps, last = (int(step) if step.isdecimal() else step for step in path.split("."))
    target: Any = raw
    for step in steps:
        target = target[step]
    if value is None:
        del target[last]
    else:
        target[last] = value


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ("colour", "red", "colour"),
        ("domain.1.colour", "red", "domain[1].colour"),
        ("domain.0.workload.colour", "red", "domain[0].workload.colour"),
        ("domain.1.ram", None, "domain[1].ram"),
        ("name", 3, "name"),
        ("name", "", "name"),
        ("seed", "one", "seed"),
        ("seed", -1, "seed"),
        ("interval_ms", 1, "interval_ms"),
        ("interval_ms", 1.5, "interval_ms"),
        ("interval_ms", 10**12, "interval_ms"),
        ("policies", [], "policies"),
        ("policies", "greedy", "policies"),
        ("domain", [], "domain"),
        ("domain", {}, "domain"),
        ("memory", "many", "memory"),
        ("memory", True, "memory"),
        ("memory", "6 MiB", "memory"),
        ("memory", "1 EiB", "memory"),
        pytest.param("memory", "9" * 400 + " GiB", "memory", id="memory-text-beyond-float"),
        pytest.param("memory", 4096 * 10**400, "memory", id="memory-number-beyond-float"),
        ("tmem", "3 MiB", "tmem"),
        ("memory", "999999999 GiB", "memory"),
        ("slack", "1 MiB", "slack"),
        ("slack", -4096, "slack"),
        ("domain.0.ram", 4097, "domain[0].ram"),
        ("domain.0.ram", "16 MiB", "domain[0].ram"),
        ("domain.0.maxmem", "1 MiB", "domain[0].maxmem"),
        ("domain.0.maxmem", "9999 GiB", "domain[0].maxmem"),
        ("domain.1.name", "vm1", "domain[1].name"),
        ("domain.1.name", "v m", "domain[1].name"),
        ("domain.1.name", "vм1", "domain[1].name"),
        ("domain.1.name", "hypervisor", "domain[1].name"),
        ("domain.1.priority", 10**20, "domain[1].priority"),
        ("domain.1.weight", 0.0, "domain[1].weight"),
        ("domain.1.weight", float("inf"), "domain[1].weight"),
        ("domain.1.start_after_s", float("nan"), "domain[1].start_after_s"),
        ("domain.1.credit_areas", 65, "domain[1].credit_areas"),
        ("domain.1.tmem_max", "512 KiB", "domain[1].tmem_max"),
        ("domain.1.tmem_min", "8 MiB", "domain.tmem_min"),
        ("domain.1.workload", "sort", "domain[1].workload"),
        ("domain.1.workload.kind", "dance", "domain[1].workload.kind"),
        ("domain.1.workload.trace", "dance", "domain[1].workload.trace"),
        ("domain.1.workload.resident", "5 MiB", "domain[1].workload.resident"),
        ("domain.1.workload.resident", 0, "domain[1].workload.resident"),
        ("domain.1.workload.repeat", 0, "domain[1].workload.repeat"),
        ("seeds", 0, "seeds"),
        ("disk", {"read_us": -1}, "disk.read_us"),
        ("costs", {"tmem_get_us": float("nan")}, "costs.tmem_get_us"),
        ("domain.1.crash_at", 1.0, "domain[1].crash_at"),
        ("domain.0.ram_min", "3 MiB", "domain[0].ram_min"),
        ("domain.0.ram_max", "1 MiB", "domain[0].ram_max"),
        ("domain.0.ram_max", "9 MiB", "domain[0].ram_max"),
        ("domain.0.start_when", {"domain": "vm2", "done": 0.5}, "domain[0].start_when.domain"),
        ("domain.1.start_when", {"domain": "vm1", "done": 1.5}, "domain[1].start_when.done"),
        ("domain.1.start_when", {"domain": "vm1"}, "domain[1].start_when.done"),
        ("domain.0.options", {"colour": 1}, "domain[0].options.colour"),
        ("domain.1.options", {"block_areas": 2}, "domain[1].options.block_areas"),
    ],
)
def test_a_wrong_scenario_names_the_key(path: str, value: object, key: str) -> None:
    raw = document()
    set_key(raw, path, value)
    with pytest.raises(ConfigError) as caught:
        schema.parse(raw)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


def test_more_memory_than_the_machine_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "usable_bytes", lambda: 8 * MIB)
    with pytest.raises(ConfigError) as caught:
        schema.parse(document())
    assert caught.value.key == "memory"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
PATHS = st.sampled_from(
    [
        "name",
        "memory",
        "domain",
        "slack",
        "policies",
        "domain.0",
        "domain.1.ram",
        "domain.0.workload",
    ]
)


@given(PATHS, JSON)
def test_anything_else_is_valid_or_a_config_error(path: str, value: object) -> None:
    raw = document()
    set_key(raw, path, value)
    with contextlib.suppress(ConfigError):
        config.check(schema.to_hypervisor_config(schema.parse(raw), "greedy"))


@pytest.mark.parametrize(
    "override",
    [
        "domain[0].maxmem=10 MiB",
        'domain[0].maxmem="10 MiB"',
        "domain[0].maxmem=10485760",
        "domain[0].maxmem=2560 pages",
    ],
)
def test_an_override_replaces_one_key(override: str) -> None:
    assert schema.load(None, [override]).domain[0].maxmem == 10 * MIB


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("interval_ms=1", "interval_ms"),
        ("domain[0].workload.repeat=none", "domain[0].workload.repeat"),
        ("domain[9].ram=2MiB", "domain[9].ram"),
        ("name.first=2", "name.first"),
        ("interval_ms", "--set interval_ms"),
        ("a..b=1", "--set a..b=1"),
    ],
)
def test_a_wrong_override_names_the_key(override: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        schema.load(None, [override])
    assert caught.value.key == key


def test_a_file_is_read_and_its_syntax_checked(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("name = [", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        schema.load(str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        schema.load(str(file))
    file.write_bytes(b"#" * (schema.FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="larger"):
        schema.load(str(file))
    for missing in (str(tmp_path / "absent.toml"), "no-such-scenario", ""):
        with pytest.raises(ConfigError):
            schema.load(missing)


WORKLOADS: dict[str, dict[str, Any]] = {
    "usemem": {"step": "1 MiB", "most": "2 MiB"},
    "graph-analytics": {"vertices": 1024},
    "in-memory-analytics": {"users": 100, "pause_s": 0.1},
    "loop": {"size": "1 MiB"},
    "junk": {"size": "1 MiB"},
    "bursts": {"base": "1 MiB", "most": "2 MiB"},
    "demand-series": {"vm": 3, "peak": "2 MiB"},
    "quiet": {"size": "1 MiB"},
}


def with_workload(kind: str, **keys: Any) -> dict[str, Any]:
    raw = document()
    raw["domain"][0]["workload"] = {"kind": kind, "resident": "10 pages"} | WORKLOADS[kind] | keys
    return raw


@pytest.mark.parametrize("kind", WORKLOADS)
def test_every_kind_of_workload_can_be_written_down(kind: str) -> None:
    assert title_of(schema.parse(with_workload(kind)).domain[0].workload) == kind


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("usemem", "most", "512 KiB"),
        ("usemem", "sweeps", 0),
        ("graph-analytics", "vertices", 1000),
        ("graph-analytics", "iterations", 100_000),
        ("graph-analytics", "edge_bytes", 0),
        ("in-memory-analytics", "pause_s", -1),
        ("in-memory-analytics", "runs", 0),
        ("loop", "size", 0),
        ("junk", "every", 0),
        ("bursts", "most", "512 KiB"),
        ("bursts", "shape", 1.0),
        ("demand-series", "vm", 8),
        ("demand-series", "samples", 289),
        ("quiet", "pauses", -1),
    ],
)
def test_a_wrong_workload_names_the_key(kind: str, key: str, value: object) -> None:
    raw = with_workload(kind, **{key: value})
    with pytest.raises(ConfigError) as caught:
        schema.parse(raw)
    assert caught.value.key == f"domain[0].workload.{key}"


def test_limits_reach_the_hypervisor() -> None:
    raw = document()
    raw["domain"][0] |= {"ram_min": "1 MiB", "ram_max": "2 MiB", "opt_out": True}
    first, second = schema.to_hypervisor_config(schema.parse(raw), "greedy").domains
    assert (first.ram_min_frames, first.ram_max_frames, first.opt_out) == (256, 512, True)
    assert (second.ram_min_frames, second.ram_max_frames, second.opt_out) == (-1, -1, False)
