"""Scenarios: the description of a run as a TOML file, checked before anything starts.

Owns: the schema of ``scenarios/*.toml`` and its units. Every mistake becomes a ConfigError whose
key is a path into the file, such as ``domain[1].ram``. ``to_hypervisor_config`` turns a scenario
into the configuration of a hypervisor process; no other module converts units.
``hypervisor.config`` checks the settings that scenario and hypervisor share; the keys of its errors
are translated here.
"""

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from backend.options import check_options
from hypervisor import config
from hypervisor.public.documents import decode_toml
from hypervisor.public.errors import ConfigError
from hypervisor.public.settings import (
    NAME_CHARACTERS_MAX,
    DomainSettings,
    HostSettings,
    Name,
    common,
    convert,
)
from hypervisor.public.units import AREA_BYTES
from memcoord.testbed.runs import facts
from memcoord.testbed.scenarios.overrides import apply
from memcoord.testbed.scenarios.programs import MECHANISMS, ProgramWorkload
from memcoord.testbed.scenarios.sizes import Size, decode_size
from memcoord.testbed.scenarios.virtual_machines import BOOKED_BY, MachineWorkload
from memcoord.testbed.scenarios.workloads import REAL, Workload

DEFAULT = "main"
#: Folders of shipped scenarios: ``unseen`` are those that no policy was tuned on.
FOLDERS = ("smartmem", "unseen")
#: Shipped scenarios of real programs, also in virtual machines: they can be run, but not simulated.
OF_PROGRAMS = ("programs", "vms", "vms-balloon", "vms-tmem")
FILE_BYTES_MAX = 1 << 20
SEEDS_MAX = 1000
#: Files of a run directory are named after its processes.
RESERVED_NAMES = ("hypervisor",)

_STRICT: dict[str, Any] = {"frozen": True, "forbid_unknown_fields": True}
#: A key of the hypervisor's configuration -> the key of the scenario, where the names differ.
_KEYS = {"domains": "domain", "total": "memory", "boot": "ram", "target": "ram"}

Share = Annotated[float, Meta(ge=0, le=1, description="of its references")]
CostUs = Annotated[float, Meta(ge=0, le=1e6, description="microseconds")]


class StartWhen(msgspec.Struct, **_STRICT):
    """Start once ``domain`` has done this fraction of its references, or has ended.

    A fraction, unlike a time, means the same on a loaded machine and in virtual time.
    """

    domain: str  # one that stands before this one
    done: Share  # or when it has ended before


class Claim(msgspec.Struct, **_STRICT):
    """A sentence that a run of the scenario is to show, and what decides it.

    It is shown when ``figure`` of ``domain`` (of the whole run without one) under ``policy`` is
    ``verdict`` than under greedy, by its interval.
    """

    says: str  # the sentence
    policy: str  # as it stands in ``policies``
    verdict: Literal["better", "worse"]  # than greedy's, by its interval
    domain: str = ""  # "": the whole run
    # What is compared.
    figure: Literal["worst_slowdown", "mean_slowdown", "disk_reads", "seconds"] = "disk_reads"


class Disk(msgspec.Struct, **_STRICT):
    """The simulator's disk, as ``memcoord.simulation.costs`` explains it; None: as in the cost set.
    The testbed has a real one."""

    read_us: CostUs | None = None  # of the first page of a transfer
    write_us: CostUs | None = None  # the same of writing
    read_page_us: CostUs | None = None  # of each further page in the same transfer
    write_page_us: CostUs | None = None  # the same of writing
    shared: bool | None = None  # all domains use one disk and wait for each other
    depth: int | None = None  # transfers that a shared disk serves at once


class Costs(msgspec.Struct, **_STRICT):
    """What else costs time in the simulator, as explained there; None: as in the cost set."""

    cpus: int | None = None  # that domains share; 0: each has one of its own
    quantum_us: CostUs | None = None  # a domain runs so long before the next gets its processor
    hit_us: CostUs | None = None  # of a reference to a page in RAM
    fault_us: CostUs | None = None  # of every fault, wherever its page comes from
    first_touch_us: CostUs | None = None  # of the first reference to a page
    call_us: CostUs | None = None  # of every batch of requests to tmem
    switch_us: CostUs | None = None  # more of it where the service finds no processor free
    tmem_get_us: CostUs | None = None  # of a page that comes from tmem
    tmem_put_us: CostUs | None = None  # of a page that goes there
    tmem_refused_us: CostUs | None = None  # of a put that tmem refuses, a get it cannot serve
    tmem_shared: bool | None = None  # one service carries out the requests of all, in turn


class Domain(DomainSettings, frozen=True):
    """One VM. It boots with ``ram``, which also is its first target.

    A policy may give it ``ram_min`` (default ``ram``) to ``ram_max`` (default ``maxmem``) and
    ``tmem_min`` to ``tmem_max``; equal limits pin the target. ``credit_areas`` that the domain does
    not use yet are left to it, so that a domain that just booted keeps the memory it booted with.
    At ``crash_at``, a fraction of its own references, the domain is killed.
    """

    name: Name  # what every report and verb calls it
    maxmem: Size  # the most RAM it may ever have
    ram: Size  # what it boots with, and its first target
    workload: Workload  # what it does, by its ``kind``
    # After the start of the run.
    start_after_s: Annotated[float, Meta(ge=0, le=3600.0, description="seconds")] = 0.0
    start_when: StartWhen | None = None  # once another domain has done a part of its work
    # It is killed there.
    crash_at: Annotated[float, Meta(ge=0, lt=1, description="of its references")] | None = None
    tmem_min: Size = Size(0)  # the least tmem target that a policy may set
    tmem_max: Size | None = None  # and the most; none: no limit
    ram_min: Size | None = None  # the least target of RAM that a policy may set; none: ``ram``
    ram_max: Size | None = None  # and the most; none: ``maxmem``


class Scenario(HostSettings, frozen=True):
    """One host, its domains, and the policies to compare on them.

    Simulations run ``seeds`` times, with ``seed`` and those after it, real runs ``repeat``
    times. ``disk``, ``costs`` and ``cost_set`` are the simulator's. A report says of every
    ``claim`` whether the run shows it, and ends with ``see_also``.
    """

    # What reports and run directories call it.
    name: Annotated[str, Meta(min_length=1, description="must not be empty")]
    memory: Size  # all the host has, for RAM and tmem
    domain: Annotated[tuple[Domain, ...], Meta(min_length=1)]  # a table [[domain]] for each
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 1  # of all that is drawn
    # Of a simulation: so many, from ``seed`` on
    seeds: Annotated[int, Meta(ge=1, le=SEEDS_MAX)] = 1
    repeat: Annotated[int, Meta(ge=1, le=SEEDS_MAX)] = 1  # of a run: so many rounds
    slack: Size = Size(2 * AREA_BYTES)  # of ``memory``, kept free for transfers
    tmem: Size | None = None  # the most tmem may hold; none: all that no domain has; 0: no tmem
    # Those compared where the command names none.
    policies: Annotated[tuple[str, ...], Meta(min_length=1)] = ("greedy", "smart-alloc")
    disk: Disk = Disk()  # the simulator's
    costs: Costs = Costs()  # the simulator's
    scale: Annotated[float, Meta(gt=0, le=1024)] = 1.0  # how many times as large it is at full size
    length: Annotated[float, Meta(ge=1, le=1024)] = 1.0  # how many times as long it is at full size
    claim: tuple[Claim, ...] = ()  # what a run is to show
    see_also: tuple[str, ...] = ()  # sentences that end a report
    cost_set: str = ""  # of the simulator: a shipped one, or a file; "": testbed


def load(source: str | None = None, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario in file ``source`` or shipped under that name, checked; ConfigError if wrong.

    ``overrides`` are ``key=value`` with a path of the file as key: ``domain[0].ram=4 MiB``.
    """
    wanted = DEFAULT if source is None else source
    raw = decode_toml(_read(wanted), wanted)
    for override in overrides:
        apply(raw, override)
    return parse(raw)


def parse(raw: dict[str, Any]) -> Scenario:
    """The scenario in a decoded TOML document, checked; ConfigError names the key."""
    scenario = convert(raw, Scenario, decode_size)
    check(scenario)
    return scenario


def shipped(folder: str = "") -> list[str]:
    """Names of the scenarios inside the package that replay streams of references.

    Those in ``folder``, which their names tell.
    """
    where = resources.files("memcoord.testbed") / "scenarios" / folder
    files = (f"{folder}/{entry.name}" if folder else entry.name for entry in where.iterdir())
    names = (name.removesuffix(".toml") for name in files if name.endswith(".toml"))
    return sorted(set(names) - set(OF_PROGRAMS))


def all_shipped() -> list[str]:
    """The names of all of them, those of FOLDERS last."""
    return [*shipped(), *OF_PROGRAMS, *(name for folder in FOLDERS for name in shipped(folder))]


def check(scenario: Scenario) -> None:
    """ConfigError when the parts do not fit together."""
    is_whole = (scenario.tmem or 0) % AREA_BYTES == 0
    _wants(is_whole, "tmem", "must be a multiple of 2 MiB; 0 for none")
    usable = facts.usable_bytes()
    too_much = f"{_mib(scenario.memory)} is more than this machine has, {_mib(usable)}"
    _wants(scenario.memory <= usable, "memory", too_much)
    names: set[str] = set()
    for index, domain in enumerate(scenario.domain):
        _check_domain(f"domain[{index}]", domain)
        _wants(domain.name not in names, f"domain[{index}].name", f"{domain.name!r} is taken")
        _check_start(f"domain[{index}].start_when", domain, scenario.domain[:index])
        names.add(domain.name)
    for index, claim in enumerate(scenario.claim):
        _wants(claim.domain in {"", *names}, f"claim[{index}].domain", "no such domain")
        figures = ("disk_reads", "seconds")
        _wants(
            not claim.domain or claim.figure in figures,
            f"claim[{index}].figure",
            "of one domain: disk_reads or seconds",
        )
    check_options(scenario.domain, "domain")
    try:
        config.check(to_hypervisor_config(scenario, scenario.policies[0]))
    except ConfigError as error:
        raise ConfigError(_translated(error.key), error.why) from None


def _translated(key: str) -> str:
    """The scenario's key for ``key`` of the hypervisor's configuration."""
    names = (re.sub(r"_(frames|pages)$", "", step) for step in re.split(r"(\W+)", key))
    return "".join(_KEYS.get(name, name) for name in names)


def to_hypervisor_config(scenario: Scenario, policy: str) -> config.HypervisorConfig:
    """The configuration of the hypervisor process for ``scenario`` under ``policy``."""
    return config.HypervisorConfig(
        total_frames=scenario.memory.frames,
        slack_frames=scenario.slack.frames,
        tmem_max_pages=_pages(scenario.tmem),
        policy=policy,
        scenario=scenario.name[:NAME_CHARACTERS_MAX],
        on_violation="kill",  # the launcher starts its domains: only that frees what they mapped
        **common(scenario, HostSettings),
        domains=tuple(
            config.DomainConfig(
                name=domain.name,
                maxmem_frames=domain.maxmem.frames,
                boot_frames=domain.ram.frames,
                target_frames=domain.ram.frames,
                tmem_min_pages=domain.tmem_min.frames,
                tmem_max_pages=_pages(domain.tmem_max),
                ram_min_frames=_pages(domain.ram_min if _is_resized(domain) else domain.ram),
                ram_max_frames=_pages(domain.ram_max if _is_resized(domain) else domain.ram),
                **common(domain, DomainSettings) | _machine_settings(domain),
            )
            for domain in scenario.domain
        ),
    )


def _is_resized(domain: Domain) -> bool:
    """False of a virtual machine that has the size it has."""
    return not isinstance(domain.workload, MachineWorkload) or domain.workload.is_resized


def _machine_settings(domain: Domain) -> dict[str, Any]:
    """What a domain that is a virtual machine is set to beside what its scenario says."""
    work = domain.workload
    if not isinstance(work, MachineWorkload):
        return {}
    proxy = domain.failed_puts if work.swap == "tmem" else "swap-outs"
    return {"booked_only": True, "failed_puts": proxy, "credit_areas": 0}


def _check_domain(key: str, domain: Domain) -> None:
    _wants(domain.name not in RESERVED_NAMES, f"{key}.name", f"{domain.name!r} is taken")
    ram, work = domain.ram, domain.workload
    why = 'goes with a workload of kind "qemu", where it is set by itself'
    _wants(not domain.booked_only, f"{key}.booked_only", why)
    if isinstance(work, ProgramWorkload):
        _check_program(key, domain, work)
    elif isinstance(work, MachineWorkload):
        _check_machine(key, domain, work)
    else:
        why = f"must be above 0 and fit into ram, {ram.frames} pages"
        _wants(0 < work.resident <= ram, f"{key}.workload.resident", why)
    _check_wishes(f"{key}.workload", work)
    if domain.ram_min is not None:
        _wants(0 < domain.ram_min <= ram, f"{key}.ram_min", "must be above 0, at most ram")
    if domain.ram_max is not None:
        fits = ram <= domain.ram_max <= domain.maxmem
        _wants(fits, f"{key}.ram_max", "must not be below ram nor above maxmem")


def _check_program(key: str, domain: Domain, work: ProgramWorkload) -> None:
    why = f"a program needs {' or '.join(MECHANISMS)}"
    _wants(domain.mechanism in MECHANISMS, f"{key}.mechanism", why)
    why = "needs workload.total, how much work the program does"
    _wants(not domain.crash_at or work.total > 0, f"{key}.crash_at", why)


def _check_machine(key: str, domain: Domain, work: MachineWorkload) -> None:
    why = f"a virtual machine's memory is booked by {' or '.join(BOOKED_BY)}"
    _wants(domain.mechanism in BOOKED_BY, f"{key}.mechanism", why)
    why = "needs workload.total, how much work the command does"
    _wants(not domain.crash_at or work.total > 0, f"{key}.crash_at", why)
    _check_wishes(f"{key}.workload", work)
    sizes = (domain.ram, domain.ram_min or domain.ram, domain.maxmem)
    for name, holds, why in work.sizes_fit(*map(int, sizes)):
        _wants(holds, f"{key}.{name}", why)


def _check_wishes(key: str, work: Workload) -> None:
    for name, holds, why in work.wishes():
        _wants(holds, f"{key}.{name}", why)


def _check_start(key: str, domain: Domain, before: Sequence[Domain]) -> None:
    when = domain.start_when
    if when is None:
        return
    # Only an earlier one, so that no two domains wait for each other.
    found = [one for one in before if one.name == when.domain]
    _wants(bool(found), f"{key}.domain", f"no domain {when.domain!r} stands before it")
    _wants(domain.start_after_s == 0, key, "excludes start_after_s")
    work = found[0].workload
    is_known = not isinstance(work, REAL) or work.total or when.done in (0, 1)
    why = f"{when.domain!r} does not say how much work it does: workload.total"
    _wants(bool(is_known), f"{key}.done", why)


def check_simulable(scenario: Scenario) -> None:
    """ConfigError when a domain of it runs a program, which no simulation can."""
    for index, domain in enumerate(scenario.domain):
        why = "a real program cannot be simulated: memcoord run"
        is_program = isinstance(domain.workload, REAL)
        _wants(not is_program, f"domain[{index}].workload.kind", why)


def _wants(holds: bool, key: str, why: str) -> None:
    if not holds:
        raise ConfigError(key, why)


def _read(source: str) -> str:
    path = Path(source)
    if path.suffix != ".toml" and not path.exists():
        if source not in all_shipped():
            names = ", ".join([*shipped(), *OF_PROGRAMS])
            raise ConfigError(source, f"no such file; shipped scenarios: {names}")
        path = Path(str(resources.files("memcoord.testbed") / "scenarios" / f"{source}.toml"))
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
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
