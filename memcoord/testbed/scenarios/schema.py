"""Scenarios: what a run is, as a TOML file checked before anything starts.

Owns: the schema of ``scenarios/*.toml``, its units and its sums. Whatever is wrong becomes one
ConfigError whose key is a path into the file, such as ``domain[1].ram``. ``to_hypervisor_config``
turns a checked scenario into what the hypervisor process reads; nobody else converts units.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from hypervisor import config
from hypervisor.public.backend import MECHANISMS
from hypervisor.public.errors import ConfigError
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, MAX_AREAS, areas_of
from memcoord.testbed.runs import facts
from memcoord.testbed.scenarios.overrides import apply
from memcoord.testbed.scenarios.toml import decode
from memcoord.testbed.scenarios.workloads import Size, Workload, decode_size

DEFAULT = "main"
FILE_BYTES_MAX = 1 << 20
START_AFTER_S_MAX = 3600.0
SEED_MAX = (1 << 63) - 1
SEEDS_MAX = 1000
COST_US_MAX = 1e6
#: Files of a run directory are named after its processes.
RESERVED_NAMES = ("hypervisor",)

_AT = re.compile(r"^(.*?)(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_FIELD = re.compile(r"field `([^`]+)`")


class StartWhen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start once ``domain`` has done this fraction of its references, or has ended.

    Unlike a time it means the same on a loaded machine and in virtual time.
    """

    domain: str
    done: float


class Disk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Latency of the simulator's disk per page; the testbed has a real one."""

    read_us: float = 100.0
    write_us: float = 50.0


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a page to and from tmem costs in the simulator; None: as the simulator knows it."""

    tmem_get_us: float | None = None
    tmem_put_us: float | None = None


class Domain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One VM. ``ram`` is what it boots with, and its first target.

    ``ram_min`` (default ``ram``) to ``ram_max`` (default ``maxmem``), and ``tmem_min`` to
    ``tmem_max``, are what a policy may give it; equal ones pin it. With ``opt_out`` no policy
    changes its targets at all. ``credit_areas`` that it does not use yet are left to it, so that
    one just booted keeps what it booted with. At ``crash_at``, a fraction of its own references,
    it is killed.
    """

    name: str
    maxmem: Size
    ram: Size
    workload: Workload
    start_after_s: float = 0.0
    start_when: StartWhen | None = None
    crash_at: float | None = None
    credit_areas: int = 1
    weight: float = 1.0
    priority: int = 0
    tmem_min: Size = Size(0)
    tmem_max: Size | None = None
    ram_min: Size | None = None
    ram_max: Size | None = None
    opt_out: bool = False
    mechanism: str = "direct"
    options: dict[str, int] = {}  # of the mechanism


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One host, its domains, and the policies to compare on them.

    Comparisons run ``seeds`` times, with ``seed`` and those after it. ``disk`` and ``costs`` are
    the simulator's.
    """

    name: str
    memory: Size
    domain: tuple[Domain, ...]
    seed: int = 1
    seeds: int = 1
    slack: Size = Size(2 * AREA_FRAMES * FRAME_BYTES)
    tmem: Size | None = None  # None: all host memory that no domain has installed; 0: no tmem
    tmem_dedup: bool = False
    tmem_compression: bool = False
    interval_ms: int = 1000
    policies: tuple[str, ...] = ("greedy", "smart-alloc")
    disk: Disk = Disk()
    costs: Costs = Costs()
    backing: str = ""  # "4k", "2m", or what the machine gives
    huge_dir: str = ""


def load(source: str | None = None, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario in file ``source`` or shipped under that name, checked; ConfigError if wrong.

    ``overrides`` are ``key=value`` with a path of the file as key: ``domain[0].ram=4 MiB``.
    """
    wanted = DEFAULT if source is None else source
    raw = decode(_read(wanted), wanted)
    for override in overrides:
        apply(raw, override)
    return parse(raw)


def parse(raw: dict[str, Any]) -> Scenario:
    """The scenario in a decoded TOML document, checked; ConfigError names the key."""
    try:
        scenario = msgspec.convert(raw, Scenario, dec_hook=decode_size)
    except msgspec.ValidationError as error:
        raise _config_error(str(error)) from None
    check(scenario)
    return scenario


def shipped() -> list[str]:
    """Names of the scenarios inside the package."""
    folder = resources.files("memcoord.testbed") / "scenarios"
    files = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def check(scenario: Scenario) -> None:
    """ConfigError when the parts do not fit together."""
    _wants(scenario.name != "", "name", "must not be empty")
    _wants(0 <= scenario.seed <= SEED_MAX, "seed", f"must be 0 to {SEED_MAX}")
    _wants(len(scenario.domain) > 0, "domain", "a scenario needs at least one [[domain]]")
    _wants(len(scenario.policies) > 0, "policies", "name at least one policy")
    area = AREA_FRAMES * FRAME_BYTES
    _wants(scenario.slack % area == 0, "slack", f"must be a multiple of {area >> 20} MiB")
    tmem = scenario.tmem or 0
    _wants(tmem % area == 0, "tmem", f"must be a multiple of {area >> 20} MiB; 0 for none")
    _wants(
        scenario.memory <= facts.usable_bytes(),
        "memory",
        f"{_mib(scenario.memory)} is more than this machine has, {_mib(facts.usable_bytes())}",
    )
    names: set[str] = set()
    for index, domain in enumerate(scenario.domain):
        _check_domain(f"domain[{index}]", domain)
        _wants(domain.name not in names, f"domain[{index}].name", f"{domain.name!r} is taken")
        _check_start(f"domain[{index}].start_when", domain, names)
        names.add(domain.name)
    _wants(1 <= scenario.seeds <= SEEDS_MAX, "seeds", f"must be 1 to {SEEDS_MAX}")
    _check_costs(scenario)
    _check_sums(scenario)
    config.check(to_hypervisor_config(scenario, scenario.policies[0]))


def _check_sums(scenario: Scenario) -> None:
    area = AREA_FRAMES * FRAME_BYTES
    boot = sum(areas_of(domain.ram.frames) * area for domain in scenario.domain)
    _wants(
        boot + scenario.slack <= scenario.memory,
        "memory",
        f"{_mib(scenario.memory)} cannot hold the domains' ram ({_mib(boot)} in whole areas of "
        f"2 MiB) and slack ({_mib(scenario.slack)})",
    )
    tmem_min = sum(domain.tmem_min for domain in scenario.domain)
    left = scenario.memory - boot - scenario.slack
    _wants(
        tmem_min <= left,
        "domain.tmem_min",
        f"the domains are promised {_mib(tmem_min)} of tmem, {_mib(left)} are left for it",
    )


def to_hypervisor_config(scenario: Scenario, policy: str) -> config.HypervisorConfig:
    """What the hypervisor process is told for one run of ``scenario`` under ``policy``."""
    return config.HypervisorConfig(
        total_frames=scenario.memory.frames,
        slack_frames=scenario.slack.frames,
        tmem_max_pages=_pages(scenario.tmem),
        tmem_dedup=scenario.tmem_dedup,
        tmem_compression=scenario.tmem_compression,
        policy=policy,
        interval_ms=scenario.interval_ms,
        backing=scenario.backing,
        huge_dir=scenario.huge_dir,
        domains=tuple(
            config.DomainConfig(
                name=domain.name,
                maxmem_frames=domain.maxmem.frames,
                boot_frames=domain.ram.frames,
                target_frames=domain.ram.frames,
                credit_areas=domain.credit_areas,
                weight=domain.weight,
                priority=domain.priority,
                tmem_min_pages=domain.tmem_min.frames,
                tmem_max_pages=_pages(domain.tmem_max),
                ram_min_frames=_pages(domain.ram_min),
                ram_max_frames=_pages(domain.ram_max),
                opt_out=domain.opt_out,
                mechanism=domain.mechanism,
                options=domain.options,
            )
            for domain in scenario.domain
        ),
    )


def _check_domain(key: str, domain: Domain) -> None:
    problem = config.check_name(domain.name)
    _wants(not problem, f"{key}.name", problem)
    _wants(domain.name not in RESERVED_NAMES, f"{key}.name", f"{domain.name!r} is taken")
    one_area = AREA_FRAMES * FRAME_BYTES
    _wants(
        one_area <= domain.maxmem <= one_area * MAX_AREAS,
        f"{key}.maxmem",
        f"must be {_mib(one_area)} to {_mib(one_area * MAX_AREAS)}",
    )
    _wants(
        domain.ram <= domain.maxmem,
        f"{key}.ram",
        f"{_mib(domain.ram)} is more than maxmem, {_mib(domain.maxmem)}",
    )
    work = domain.workload
    _wants(
        0 < work.resident <= domain.ram,
        f"{key}.workload.resident",
        f"must be above 0 and fit into ram, {domain.ram.frames} pages",
    )
    for name, holds, why in work.wishes():
        _wants(holds, f"{key}.workload.{name}", why)
    if domain.crash_at is not None:
        _wants(0 <= domain.crash_at < 1, f"{key}.crash_at", "must be 0 or more and below 1")
    known = ", ".join(MECHANISMS)
    why = f"{domain.mechanism!r} is none of {known}"
    _wants(domain.mechanism in MECHANISMS, f"{key}.mechanism", why)
    _wants(
        0 <= domain.start_after_s <= START_AFTER_S_MAX,
        f"{key}.start_after_s",
        f"must be 0 to {START_AFTER_S_MAX:.0f} seconds",
    )
    _wants(0 <= domain.credit_areas <= 64, f"{key}.credit_areas", "must be 0 to 64")
    finite = math.isfinite(domain.weight) and domain.weight > 0
    _wants(finite, f"{key}.weight", "must be a number above 0")
    most = config.PRIORITY_MAX
    _wants(abs(domain.priority) <= most, f"{key}.priority", f"must be {-most} to {most}")
    if domain.ram_min is not None:
        _wants(0 < domain.ram_min <= domain.ram, f"{key}.ram_min", "must be above 0, at most ram")
    if domain.ram_max is not None:
        fits = domain.ram <= domain.ram_max <= domain.maxmem
        _wants(fits, f"{key}.ram_max", "must not be below ram nor above maxmem")
    if domain.tmem_max is not None:
        _wants(domain.tmem_min <= domain.tmem_max, f"{key}.tmem_max", "must not be below tmem_min")


def _check_start(key: str, domain: Domain, before: set[str]) -> None:
    when = domain.start_when
    if when is None:
        return
    # Only an earlier one, so that no two domains wait for each other.
    _wants(when.domain in before, f"{key}.domain", f"no domain {when.domain!r} stands before it")
    _wants(0 <= when.done <= 1, f"{key}.done", "must be 0 to 1")
    _wants(domain.start_after_s == 0, key, "excludes start_after_s")


def _check_costs(scenario: Scenario) -> None:
    for key, part in (("disk", scenario.disk), ("costs", scenario.costs)):
        for name, value in msgspec.structs.asdict(part).items():
            good = value is None or 0 <= value <= COST_US_MAX
            _wants(good, f"{key}.{name}", f"must be 0 to {COST_US_MAX:.0f} microseconds")


def _wants(holds: bool, key: str, why: str) -> None:
    if not holds:
        raise ConfigError(key, why)


def _config_error(text: str) -> ConfigError:
    match = _AT.match(text)
    what, path = (match[1], match[2] or "") if match else (text, "")
    field = _FIELD.search(what)
    if field is None:
        return ConfigError(path or "scenario", what)
    key = f"{path}.{field[1]}" if path else field[1]
    return ConfigError(key, "unknown key" if "unknown" in what else "is missing")


def _read(source: str) -> str:
    path = Path(source)
    if path.suffix != ".toml" and not path.exists():
        if source not in shipped():
            raise ConfigError(source, f"no such file; shipped scenarios: {', '.join(shipped())}")
        path = Path(str(resources.files("memcoord.testbed") / "scenarios" / f"{source}.toml"))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(source, error.strerror or str(error)) from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(source, f"larger than {FILE_BYTES_MAX} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(source, "not UTF-8 text") from None


def _pages(size: Size | None) -> int:
    return -1 if size is None else size.frames


def _mib(number: int) -> str:
    return f"{number / (1 << 20):g} MiB"
