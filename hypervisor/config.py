"""The configuration of a hypervisor: host memory, domains, policy.

Owns: the frozen configuration and ``check``, which says whether its parts fit together. The process
that starts a hypervisor writes the configuration as ``CONFIG_FILE`` into the run directory; the
hypervisor process reads it once. Frames and pages are 4 KiB.
"""

import hmac
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hypervisor.public.constants import MAX_DOMAINS
from hypervisor.public.documents import decode_json
from hypervisor.public.errors import ConfigError
from hypervisor.public.settings import (
    NAME_CHARACTERS_MAX,
    DomainSettings,
    HostSettings,
    Name,
    convert,
)
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, MAX_AREAS, areas_of

#: The largest number of a node that Linux knows.
NODE_MAX = 1023
POLICY_CHARACTERS_MAX = 4096
SPIN_NS_MAX = 1_000_000_000
CONFIG_FILE = "hypervisor.json"

#: 4 PiB of memory: more than any machine has, and every count of areas fits 32 bits.
FRAMES_MAX = 1 << 40
Frames = Annotated[int, Meta(ge=0, le=FRAMES_MAX, description="frames")]
#: -1 stands for a default, which the comment beside the field names.
FramesOrDefault = Annotated[int, Meta(ge=-1, le=FRAMES_MAX, description="frames (-1: the default)")]
PagesOrAny = Annotated[int, Meta(ge=-1, le=FRAMES_MAX, description="pages (-1 for no limit)")]
SizeOfDomain = Annotated[
    int, Meta(ge=AREA_FRAMES, le=MAX_AREAS * AREA_FRAMES, description="frames of 4 KiB")
]


class DomainConfig(DomainSettings, frozen=True):
    """One domain the hypervisor expects. ``maxmem`` >= ``target`` >= ``boot``.

    The policy's targets are kept within minimum and maximum; a minimum that equals its maximum pins
    the target.
    """

    name: Name  # what it attaches as
    maxmem_frames: SizeOfDomain  # the most RAM it may ever have
    boot_frames: Frames  # granted at once
    target_frames: Frames  # its first target
    # The least tmem target.
    tmem_min_pages: Annotated[int, Meta(ge=0, le=FRAMES_MAX, description="pages")] = 0
    tmem_max_pages: PagesOrAny = -1  # the most
    ram_min_frames: FramesOrDefault = -1  # -1: boot_frames
    ram_max_frames: FramesOrDefault = -1  # -1: maxmem

    def ram_limits(self) -> tuple[int, int]:
        """Least and most RAM target, in frames."""
        low = self.boot_frames if self.ram_min_frames < 0 else self.ram_min_frames
        return low, self.maxmem_frames if self.ram_max_frames < 0 else self.ram_max_frames


class BankConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of host memory, bound to NUMA node ``node`` (-1: to none)."""

    frames: Annotated[int, Meta(ge=1, le=FRAMES_MAX, description="frames")]  # its size
    # Its NUMA node; -1: none.
    node: Annotated[int, Meta(ge=-1, le=NODE_MAX, description="(-1 for none)")] = -1
    remote: bool = False  # used after those that are not


class HypervisorConfig(HostSettings, frozen=True):
    """The whole host.

    ``on_violation``: what happens to a domain that uses more memory than it was granted. "stop"
    detaches the domain; "kill" also kills its process, because only that revokes memory the process
    has already mapped. The launcher's runs have "kill". Of a domain that brings a token, "kill"
    kills all that is in its control group or PID namespace. A domain whose file does not let its
    memory go is detached in any case, and with "kill" killed.
    """

    # All the host has.
    total_frames: Annotated[int, Meta(ge=1, le=FRAMES_MAX, description="frames")]
    slack_frames: Frames = 2 * AREA_FRAMES  # of them, kept free for transfers
    tmem_max_pages: PagesOrAny = -1  # -1: all host memory no domain has installed
    policy: Annotated[str, Meta(max_length=POLICY_CHARACTERS_MAX)] = (
        "greedy"  # "name", "name:P=2,threshold=64" or "path.py:Class"
    )
    # For one plan; a slower policy is ended.
    policy_deadline_ms: Annotated[int, Meta(ge=1, le=3_600_000, description="milliseconds")] = 500
    spin_ns: Annotated[
        int, Meta(ge=-1, le=SPIN_NS_MAX, description="nanoseconds")
    ] = -1  # -1: calibrate; 0: always sleep; after a request of tmem 10 times as long
    open_attach: bool = False  # domains not listed may attach with the maxmem they ask for
    attach_secret: str = ""  # a listed domain must bring the ``attach_token`` made of it
    cgroup: str = ""  # control group whose children, by name, hold the domains that bring tokens
    on_violation: Literal["report", "stop", "kill"] = "report"
    # Errors of a domain before it is detached.
    error_budget: Annotated[int, Meta(ge=0, le=(1 << 32) - 1, description="errors")] = 64
    tmem_record: str = ""  # file to append every tmem operation to
    scenario: Annotated[str, Meta(max_length=NAME_CHARACTERS_MAX)] = ""  # for who watches
    banks: tuple[BankConfig, ...] = ()  # their sum is total_frames; none: one bank
    domains: tuple[DomainConfig, ...] = ()  # those it expects


def attach_token(secret: str, name: str) -> str:
    """What the domain ``name`` must bring, once, where the configuration has this secret."""
    return hmac.new(secret.encode(), name.encode(), "sha256").hexdigest()


def read(path: Path) -> HypervisorConfig:
    """The checked configuration in the JSON file ``path``; ConfigError says what is wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from None
    try:
        config = convert(decode_json(data, str(path)), HypervisorConfig)
        check(config)
    except ConfigError as error:
        where = "" if error.key == str(path) else f" (in {path})"
        raise ConfigError(error.key, f"{error.why}{where}") from None
    return config


def write(run_dir: Path, config: HypervisorConfig) -> None:
    """Put ``config`` where a hypervisor process started in ``run_dir`` reads it; OSError."""
    data = msgspec.json.format(msgspec.json.encode(config), indent=2)
    path = run_dir / CONFIG_FILE
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data + b"\n")  # nobody else's: it may hold the secret of attaching


def check(config: HypervisorConfig) -> None:
    """ConfigError, naming the key, when the configuration cannot work."""
    convert(msgspec.to_builtins(config), HypervisorConfig)  # bounds of a struct made in Python
    names = [domain.name for domain in config.domains]
    if len(names) > MAX_DOMAINS:
        raise ConfigError("domains", f"{len(names)} domains, at most {MAX_DOMAINS}")
    if len(set(names)) != len(names):
        raise ConfigError("domains", "two domains have one name")
    if config.tmem_record and (config.tmem_dedup or config.tmem_compression):
        why = "a stream tells what a pool without dedup and compression answers"
        raise ConfigError("tmem_record", why)
    if config.slack_frames % AREA_FRAMES:
        raise ConfigError("slack_frames", f"must be a multiple of {_size(AREA_FRAMES)}")
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
            f"{_size(config.total_frames)} cannot hold {_size(boot)} that the domains boot with, "
            f"in whole areas, and {_size(config.slack_frames)} of slack",
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


def _size(frames: int) -> str:
    return f"{frames} frames ({frames * FRAME_BYTES / (1 << 20):g} MiB)"


def _check_domain(key: str, domain: DomainConfig) -> None:
    boot, target, most = domain.boot_frames, domain.target_frames, domain.maxmem_frames
    if not boot <= target <= most:
        why = f"wants boot <= target <= maxmem, has {boot}, {target} and {most} frames"
        raise ConfigError(f"{key}.boot_frames", why)
    low, high = domain.ram_limits()
    if high > most:
        raise ConfigError(f"{key}.ram_max_frames", f"{high} is above maxmem_frames, {most}")
    if low > high:
        raise ConfigError(f"{key}.ram_min_frames", f"{low} is above the most, {high}")
    if not low <= target <= high:
        raise ConfigError(f"{key}.target_frames", f"{target} is not within {low} to {high}")
    least, most = domain.tmem_min_pages, domain.tmem_max_pages
    if 0 <= most < least:
        raise ConfigError(f"{key}.tmem_max_pages", f"{most} is below tmem_min_pages, {least}")
