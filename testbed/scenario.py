"""Scenarios: what a run is, as a TOML file checked before anything starts.

Owns: the schema of ``scenarios/*.toml``, its units and its sums. Whatever is wrong becomes one
ConfigError whose key is a path into the file, such as ``domain[1].ram``. ``to_hypervisor_config``
turns a checked scenario into what the hypervisor process reads; nobody else converts units.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from hypervisor import config
from hypervisor.public.backend import MECHANISMS
from hypervisor.public.errors import ConfigError
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, MAX_AREAS, areas_of, parse_bytes
from testbed import machine
from testbed.overrides import apply
from testbed.page_trace import check_workload

DEFAULT = "main"
FILE_BYTES_MAX = 1 << 20
START_AFTER_S_MAX = 3600.0
REPEAT_MAX = 10_000
SEED_MAX = (1 << 63) - 1
SIZE_MAX = 1 << 62
#: Files of a run directory are named after its processes.
RESERVED_NAMES = ("hypervisor",)

_AT = re.compile(r"^(.*?)(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_FIELD = re.compile(r"field `([^`]+)`")


class Size(int):
    """Bytes, a whole number of frames; written as ``"64 MiB"``, ``"512 pages"`` or bytes."""

    @property
    def frames(self) -> int:
        """The same in frames (or tmem pages) of 4 KiB."""
        return int(self) // FRAME_BYTES


class PageTraceWorkload(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="page-trace"
):
    """Replay a page-reference trace ``repeat`` times with ``resident`` pages of real frames.

    With ``program_file`` the pages of the program itself are mapped from a file and cached in
    cleancache; without, every page is anonymous and is swapped.
    """

    trace: str
    resident: Size
    repeat: int = 1
    program_file: bool = False


class Domain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One VM. ``ram`` is what it boots with and its first target; at most ``maxmem``."""

    name: str
    maxmem: Size
    ram: Size
    workload: PageTraceWorkload
    start_after_s: float = 0.0
    credit_areas: int = 0
    weight: float = 1.0
    priority: int = 0
    tmem_min: Size = Size(0)
    tmem_max: Size | None = None
    mechanism: str = "direct"
    options: dict[str, int] = {}  # of the mechanism


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One host, its domains, and the policies to compare on them."""

    name: str
    memory: Size
    domain: tuple[Domain, ...]
    seed: int = 1
    slack: Size = Size(2 * AREA_FRAMES * FRAME_BYTES)
    tmem: Size | None = None  # None: all host memory that no domain has installed; 0: no tmem
    tmem_dedup: bool = False
    tmem_compression: bool = False
    interval_ms: int = 1000
    policies: tuple[str, ...] = ("greedy", "smart-alloc")
    backing: str = ""  # "4k", "2m", or what the machine gives
    huge_dir: str = ""


def load(source: str | None = None, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario in file ``source`` or shipped under that name, checked; ConfigError if wrong.

    ``overrides`` are ``key=value`` with a path of the file as key: ``domain[0].ram=4 MiB``.
    """
    wanted = DEFAULT if source is None else source
    try:
        raw = tomllib.loads(_read(wanted))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(wanted, str(error)) from None
    for override in overrides:
        apply(raw, override)
    return parse(raw)


def parse(raw: dict[str, Any]) -> Scenario:
    """The scenario in a decoded TOML document, checked; ConfigError names the key."""
    try:
        scenario = msgspec.convert(raw, Scenario, dec_hook=_size)
    except msgspec.ValidationError as error:
        raise _config_error(str(error)) from None
    check(scenario)
    return scenario


def shipped() -> list[str]:
    """Names of the scenarios inside the package."""
    folder = resources.files("testbed") / "scenarios"
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
        scenario.memory <= machine.usable_bytes(),
        "memory",
        f"{_mib(scenario.memory)} is more than this machine has, {_mib(machine.usable_bytes())}",
    )
    names: set[str] = set()
    for index, domain in enumerate(scenario.domain):
        _check_domain(f"domain[{index}]", domain)
        _wants(domain.name not in names, f"domain[{index}].name", f"{domain.name!r} is taken")
        names.add(domain.name)
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
    _wants(1 <= work.repeat <= REPEAT_MAX, f"{key}.workload.repeat", f"must be 1 to {REPEAT_MAX}")
    _wants(
        domain.mechanism in MECHANISMS,
        f"{key}.mechanism",
        f"{domain.mechanism!r} is none of {', '.join(MECHANISMS)}",
    )
    problem = check_workload(work.trace)
    _wants(not problem, f"{key}.workload.trace", problem)
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
    if domain.tmem_max is not None:
        _wants(domain.tmem_min <= domain.tmem_max, f"{key}.tmem_max", "must not be below tmem_min")


def _wants(holds: bool, key: str, why: str) -> None:
    if not holds:
        raise ConfigError(key, why)


def _size(kind: type, value: Any) -> Any:
    if kind is not Size:
        raise NotImplementedError(kind)
    if type(value) is int:
        number = value
    elif type(value) is str:
        number = parse_bytes(value)
    else:
        raise ValueError(f"{value!r} is not a size: write for example '64 MiB'")
    if not 0 <= number <= SIZE_MAX:
        raise ValueError(f"a size is 0 to {SIZE_MAX} bytes")
    if number % FRAME_BYTES:
        raise ValueError(f"{number} bytes are not a whole number of {FRAME_BYTES}-byte frames")
    return Size(number)


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
        path = Path(str(resources.files("testbed") / "scenarios" / f"{source}.toml"))
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
