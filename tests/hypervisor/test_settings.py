"""Goal: a setting's bound stands in one place, and every form of the setting is told it.

Method: the same wrong values in a TOML document, a JSON file, an override and a struct.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hypervisor import config
from hypervisor.public.errors import ConfigError
from hypervisor.public.settings import DomainSettings, HostSettings, check_name
from hypervisor.public.units import AREA_FRAMES
from memcoord.testbed.scenarios import schema

SCENARIO = """
name = "small"
memory = "12 MiB"
[[domain]]
name = "vm1"
maxmem = "4 MiB"
ram = "2 MiB"
workload = { kind = "loop", size = "1 MiB", resident = "100 pages" }
"""
HOST = {
    "total_frames": 8 * AREA_FRAMES,
    "domains": [{"name": "vm1", "maxmem_frames": 1024, "boot_frames": 512, "target_frames": 512}],
}
WRONG: list[tuple[str, Any, str]] = [
    ("credit_areas", 65, "must be 0 to 64 areas"),
    ("credit_areas", -1, "must be 0 to 64 areas"),
    ("weight", 0.0, "must be above 0"),
    ("priority", (1 << 53) + 1, "must be -9007199254740992 to 9007199254740992"),
    ("mechanism", "magic", "must be one of direct, balloon"),
    ("opt_out", 1, "Expected `bool`, got `int`"),
    ("nothing", 1, "unknown key"),
]


@pytest.mark.parametrize(("key", "value", "why"), WRONG)
def test_a_domains_setting_is_refused_in_every_form(
    key: str, value: Any, why: str, tmp_path: Path
) -> None:
    scenario = tomllib.loads(SCENARIO)
    scenario["domain"][0][key] = value
    with pytest.raises(ConfigError) as caught:
        schema.parse(scenario)
    assert caught.value.key == f"domain[0].{key}"
    assert why in caught.value.why
    file = tmp_path / config.CONFIG_FILE
    file.write_bytes(msgspec.json.encode(HOST | {"domains": [HOST["domains"][0] | {key: value}]}))
    with pytest.raises(ConfigError) as caught:
        config.read(file)
    assert caught.value.key == f"domains[0].{key}"
    assert why in caught.value.why
    (tmp_path / "mine.toml").write_text(SCENARIO, encoding="utf-8")
    shown = str(value).lower() if isinstance(value, bool) else value
    with pytest.raises(ConfigError) as caught:
        schema.load(str(tmp_path / "mine.toml"), [f"domain[0].{key}={shown}"])
    assert (caught.value.key, why in caught.value.why) == (f"domain[0].{key}", True)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("interval_ms", 9, "must be 10 to 3600000 milliseconds"),
        ("backing", "1g", "must be one of '', '2m', '4k'"),
    ],
)
def test_a_hosts_setting_is_refused_in_both_files(key: str, value: Any, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        schema.parse(tomllib.loads(SCENARIO) | {key: value})
    assert (caught.value.key, caught.value.why) == (key, why)
    with pytest.raises(ConfigError) as caught:
        config.check(config.HypervisorConfig(total_frames=8 * AREA_FRAMES, **{key: value}))
    assert (caught.value.key, caught.value.why) == (key, why)


def test_on_violation_is_one_of_three() -> None:
    made = config.HypervisorConfig(total_frames=8 * AREA_FRAMES, **{"on_violation": "shout"})
    with pytest.raises(ConfigError, match="on_violation: must be one of 'kill', 'report', 'stop'"):
        config.check(made)


def test_what_both_have_in_common_arrives_unchanged() -> None:
    raw = tomllib.loads(SCENARIO)
    raw |= {"interval_ms": 70, "tmem_dedup": True, "tmem_compression": True, "backing": "4k"}
    raw["domain"][0] |= {"credit_areas": 3, "weight": 2.5, "priority": 4, "opt_out": True}
    raw["domain"][0] |= {"mechanism": "balloon", "options": {"merge": 1}}
    raw["domain"][0]["failed_puts"] = "swap-outs"
    made = schema.to_hypervisor_config(schema.parse(raw), "greedy")
    for name in HostSettings.__struct_fields__:
        assert getattr(made, name) == raw.get(name, "")
    for name in DomainSettings.__struct_fields__:
        plain = {"booked_only": False}  # which no scenario may set
        assert getattr(made.domains[0], name) == (raw["domain"][0] | plain)[name]


def test_a_written_configuration_is_read_back(tmp_path: Path) -> None:
    made = msgspec.convert(HOST, config.HypervisorConfig)
    config.write(tmp_path, made)
    assert config.read(tmp_path / config.CONFIG_FILE) == made


@pytest.mark.parametrize("name", ["vm1", "_", "V" * 32])
def test_a_good_name_has_no_problem(name: str) -> None:
    assert check_name(name) == ""


@pytest.mark.parametrize("name", ["", "1vm", "v m", "vm-1", "vм1", "v" * 33, "vm1\n"])
def test_a_bad_name_is_told_what_a_name_is(name: str) -> None:
    assert check_name(name) == f"{name!r} must be an ASCII identifier of 1 to 32 characters"


@pytest.mark.parametrize(
    ("change", "key", "why"),
    [
        (
            {"workload": {"kind": "dance"}},
            "workload.kind",
            "must be one of page-trace, block-trace",
        ),
        ({"workload": {"size": "1 MiB"}}, "workload.kind", "is missing: must be one of page-trace"),
        ({"rma": "2 MiB"}, "rma", "unknown key; is it 'ram'?"),
        ({"mechanism": "magic"}, "mechanism", "must be one of direct, balloon"),
    ],
)
def test_an_error_says_what_would_be_right(change: dict[str, Any], key: str, why: str) -> None:
    scenario = tomllib.loads(SCENARIO)
    scenario["domain"][0].update(change)
    with pytest.raises(ConfigError) as caught:
        schema.parse(scenario)
    assert caught.value.key == f"domain[0].{key}"
    assert why in caught.value.why
