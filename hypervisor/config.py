"""What a hypervisor is told at start: host memory, domains, policy.

Owns: the frozen, checked configuration. The testbed writes it as ``hypervisor.json`` into the run
directory; the hypervisor process reads it once. Frames and pages are 4 KiB.
"""

from __future__ import annotations

import msgspec

from hypervisor.public.backend import MECHANISMS
from hypervisor.public.errors import ConfigError
from hypervisor.public.units import AREA_FRAMES, areas_of

MAX_DOMAINS = 64
INTERVAL_MS_MIN = 10
INTERVAL_MS_MAX = 3_600_000
NAME_CHARACTERS_MAX = 32
#: A view's column holds these exactly.
PRIORITY_MAX = 1 << 53


class DomainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One domain the hypervisor expects. ``maxmem`` >= ``target`` >= ``boot``."""

    name: str
    maxmem_frames: int
    boot_frames: int
    target_frames: int
    credit_areas: int = 1
    weight: float = 1.0
    priority: int = 0
    tmem_min_pages: int = 0
    tmem_max_pages: int = -1  # -1: no limit
    mechanism: str = "direct"  # one of hypervisor.public.backend.MECHANISMS
    options: dict[str, int] = {}  # of the mechanism, by name


class BankConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of host memory, bound to NUMA node ``node`` (-1: to none)."""

    frames: int
    node: int = -1
    remote: bool = False


class HypervisorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole host."""

    total_frames: int
    slack_frames: int = 2 * AREA_FRAMES
    tmem_max_pages: int = -1  # -1: all host memory no domain has installed
    tmem_dedup: bool = False  # pages of the same content of one domain are kept once
    tmem_compression: bool = False  # cold pages are compressed, a few at every tick
    policy: str = "greedy"  # "name", "name:P=2,threshold=64" or "path.py:Class"
    interval_ms: int = 1000
    policy_deadline_ms: int = 500
    spin_ns: int = -1  # -1: calibrate; 0: always sleep
    open_attach: bool = False  # domains not listed may attach with the maxmem they ask for
    #: What is done to a domain that uses more than it was granted. "stop": it is detached; "kill":
    #: its process is killed as well, which alone keeps it from going on with what it has mapped.
    on_violation: str = "report"
    error_budget: int = 64
    tmem_record: str = ""  # file to append every tmem operation to, see testbed.tmem_record
    backing: str = ""  # "4k", "2m", or what the machine gives
    huge_dir: str = ""  # a tmpfs mounted huge=always; its files cannot be sealed
    banks: tuple[BankConfig, ...] = ()  # their sum is total_frames; none: one bank
    domains: tuple[DomainConfig, ...] = ()


def check_name(name: str) -> str:
    """Empty when a domain may be called ``name``, else what is wrong with it."""
    # Names become file names, columns and words of log lines, whatever the locale.
    if name.isascii() and name.isidentifier() and len(name) <= NAME_CHARACTERS_MAX:
        return ""
    return f"{name!r} must be an ASCII identifier of 1 to {NAME_CHARACTERS_MAX} characters"


def check(config: HypervisorConfig) -> None:
    """ConfigError, naming the key, when the configuration cannot work."""
    names = [domain.name for domain in config.domains]
    if len(names) > MAX_DOMAINS:
        raise ConfigError("domains", f"{len(names)} domains, at most {MAX_DOMAINS}")
    if len(set(names)) != len(names):
        raise ConfigError("domains", "two domains have one name")
    if not INTERVAL_MS_MIN <= config.interval_ms <= INTERVAL_MS_MAX:
        raise ConfigError("interval_ms", f"must be {INTERVAL_MS_MIN} to {INTERVAL_MS_MAX}")
    if config.on_violation not in ("report", "stop", "kill"):
        raise ConfigError("on_violation", "must be 'report', 'stop' or 'kill'")
    if config.tmem_record and (config.tmem_dedup or config.tmem_compression):
        raise ConfigError(
            "tmem_record", "a stream tells what a pool without dedup and compression answers"
        )
    if config.slack_frames < 0 or config.slack_frames % AREA_FRAMES:
        raise ConfigError("slack_frames", f"must be a multiple of {AREA_FRAMES}, at least 0")
    if config.backing not in ("", "4k", "2m"):
        raise ConfigError("backing", "must be '4k', '2m', or '' for what the machine gives")
    if config.banks and sum(bank.frames for bank in config.banks) != config.total_frames:
        raise ConfigError("banks", "their sum must be total_frames")
    for index, domain in enumerate(config.domains):
        _check_domain(f"domains[{index}]", domain)
    boot = sum(areas_of(domain.boot_frames) * AREA_FRAMES for domain in config.domains)
    if boot + config.slack_frames > config.total_frames:
        raise ConfigError(
            "total_frames",
            f"{config.total_frames} cannot hold {boot} boot frames of the domains "
            f"and {config.slack_frames} frames of slack",
        )


def _check_domain(key: str, domain: DomainConfig) -> None:
    problem = check_name(domain.name)
    if problem:
        raise ConfigError(f"{key}.name", problem)
    if domain.maxmem_frames < AREA_FRAMES:
        raise ConfigError(f"{key}.maxmem_frames", f"must be at least {AREA_FRAMES} (one area)")
    if not 0 <= domain.boot_frames <= domain.target_frames <= domain.maxmem_frames:
        raise ConfigError(f"{key}.boot_frames", "wants 0 <= boot <= target <= maxmem")
    if domain.mechanism not in MECHANISMS:
        raise ConfigError(f"{key}.mechanism", f"must be one of {', '.join(MECHANISMS)}")
    if not 0 <= domain.credit_areas <= 64:
        raise ConfigError(f"{key}.credit_areas", "must be 0 to 64")
    if domain.weight <= 0:
        raise ConfigError(f"{key}.weight", "must be above 0")
    if abs(domain.priority) > PRIORITY_MAX:
        raise ConfigError(f"{key}.priority", f"must be {-PRIORITY_MAX} to {PRIORITY_MAX}")
