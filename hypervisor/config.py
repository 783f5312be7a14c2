"""What a hypervisor is told at start: host memory, domains, policy.

Owns: the frozen, checked configuration. The testbed writes it as ``hypervisor.json`` into the run
directory; the hypervisor process reads it once. Frames and pages are 4 KiB.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from hypervisor.public.backend import MECHANISMS
from hypervisor.public.constants import MAX_DOMAINS
from hypervisor.public.errors import ConfigError
from hypervisor.public.units import AREA_FRAMES, areas_of

INTERVAL_MS_MIN = 10
INTERVAL_MS_MAX = 3_600_000
NAME_CHARACTERS_MAX = 32
#: A view's column holds these exactly.
PRIORITY_MAX = 1 << 53


class DomainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One domain the hypervisor expects. ``maxmem`` >= ``target`` >= ``boot``.

    The policy's targets are kept within minimum and maximum; equal ones pin it. ``opt_out``: the
    policy neither sees nor changes it, and what it holds is not shared. ``priority`` decides who
    gets memory first when minima do not fit or growth has to wait; ``weight`` is the policy's.
    """

    name: str
    maxmem_frames: int
    boot_frames: int
    target_frames: int
    credit_areas: int = 1
    weight: float = 1.0
    priority: int = 0
    tmem_min_pages: int = 0
    tmem_max_pages: int = -1  # -1: no limit
    ram_min_frames: int = -1  # -1: what it boots with
    ram_max_frames: int = -1  # -1: maxmem
    opt_out: bool = False
    mechanism: str = "direct"  # one of hypervisor.public.backend.MECHANISMS
    options: dict[str, int] = {}  # of the mechanism, by name

    def ram_limits(self) -> tuple[int, int]:
        """Least and most RAM target, in frames."""
        low = self.boot_frames if self.ram_min_frames < 0 else self.ram_min_frames
        return low, self.maxmem_frames if self.ram_max_frames < 0 else self.ram_max_frames


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
    tmem_record: str = ""  # file to append every tmem operation to
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
    _check_sums(config)


def _check_sums(config: HypervisorConfig) -> None:
    def sum_of(frames: Callable[[DomainConfig], int]) -> int:
        return sum(areas_of(frames(domain)) * AREA_FRAMES for domain in config.domains)

    boot = sum_of(lambda domain: domain.boot_frames)
    if boot + config.slack_frames > config.total_frames:
        raise ConfigError(
            "total_frames",
            f"{config.total_frames} cannot hold {boot} boot frames of the domains "
            f"and {config.slack_frames} frames of slack",
        )
    kept = sum_of(lambda one: one.target_frames if one.opt_out else one.ram_limits()[0])
    if kept + config.slack_frames > config.total_frames:
        raise ConfigError(
            "domains.ram_min_frames",
            f"{kept} frames of minima, and of targets of those that opted out, do not fit "
            f"into {config.total_frames} less {config.slack_frames} frames of slack",
        )
    pages = config.total_frames - config.slack_frames - boot
    if config.tmem_max_pages >= 0:
        pages = min(pages, config.tmem_max_pages)
    promised = sum(
        max(one.tmem_min_pages, one.tmem_max_pages if one.opt_out else 0) for one in config.domains
    )
    if promised > pages:
        raise ConfigError(
            "domains.tmem_min_pages",
            f"{promised} pages of minima, and of limits of those that opted out, do not fit "
            f"into the {pages} pages tmem can have",
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
    if not (math.isfinite(domain.weight) and domain.weight > 0):
        raise ConfigError(f"{key}.weight", "must be a number above 0")
    if abs(domain.priority) > PRIORITY_MAX:
        raise ConfigError(f"{key}.priority", f"must be {-PRIORITY_MAX} to {PRIORITY_MAX}")
    _check_limits(key, domain)


def _check_limits(key: str, domain: DomainConfig) -> None:
    low, high = domain.ram_limits()
    if high > domain.maxmem_frames:
        raise ConfigError(
            f"{key}.ram_max_frames", f"{high} is above maxmem_frames, {domain.maxmem_frames}"
        )
    if low > high:
        raise ConfigError(f"{key}.ram_min_frames", f"{low} is above the most, {high}")
    if not low <= domain.target_frames <= high:
        raise ConfigError(
            f"{key}.target_frames", f"{domain.target_frames} is not within {low} to {high}"
        )
    if domain.tmem_min_pages < 0:
        raise ConfigError(f"{key}.tmem_min_pages", "must be at least 0")
    if domain.tmem_max_pages < -1:
        raise ConfigError(f"{key}.tmem_max_pages", "must be at least 0, or -1 for no limit")
    if 0 <= domain.tmem_max_pages < domain.tmem_min_pages:
        raise ConfigError(
            f"{key}.tmem_max_pages",
            f"{domain.tmem_max_pages} is below tmem_min_pages, {domain.tmem_min_pages}",
        )
