"""``memcoord exec``: any program of this machine, unmodified, in a domain.

Owns: the choice between a running hypervisor and one of its own, the sizes, and what is printed at
the end, on standard error: standard output is the program's. Whether the program, and this machine,
can be served is found out before anything is started.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from frontend.handshake import join
from frontend.pager import servable
from frontend.pager.family import Family, Lent
from frontend.pager.program import Outcome, run, run_without_limit
from hypervisor.public.errors import ConfigError, MemcoordError
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, parse_bytes
from memcoord.testbed.runs import userfaults

if TYPE_CHECKING:
    from memcoord.testbed.live.hypervisor import Hypervisor

MECHANISM = "balloon"
#: Swap space and tmem together, in pages of the domain's largest size; at least SLOTS_LEAST.
SLOTS_PER_FRAME = 4
SLOTS_LEAST = 1 << 18
#: Of a hypervisor of one's own, beside the domain's largest size: tmem, and its slack.
TMEM_SHARE = 1
SLACK_BYTES = 16 << 20
ATTACH_S = 30.0


class Options(msgspec.Struct, frozen=True):
    """The options as given: sizes with their units, directories, None for a default."""

    name: str
    ram: str
    most: str | None
    run_dir: str | None
    memory: str | None
    swap_dir: str | None


def exec_command(argv: Sequence[str], options: Options, as_json: bool) -> int:
    """Run ``argv``; its exit code. ConfigError when an option is wrong."""
    ram_frames, max_frames = _sizes(options.ram, options.most)
    if options.run_dir is not None and options.memory is not None:
        raise ConfigError("--memory", "a running hypervisor (--run-dir) has its memory already")
    file = servable.find(argv[0])
    if file is None:
        raise ConfigError("PROGRAM", f"{argv[0]}: not found, or not executable")
    obstacle = servable.obstacle(file) or userfaults.probe().obstacle()
    with contextlib.ExitStack() as stack:
        if obstacle:
            _tell(f"{argv[0]} runs without a limit: {obstacle}")
            outcome = run_without_limit(argv, obstacle)
        elif options.run_dir:
            outcome = _run_there(Path(options.run_dir), argv, options, max_frames)
        else:
            served = _hypervisor(options, ram_frames, max_frames)
            where = stack.enter_context(served).run_dir
            outcome = _run_there(where, argv, options, max_frames)
    _show(outcome, as_json)
    return outcome.exit_code


def _sizes(ram: str, most: str | None) -> tuple[int, int]:
    """Frames at first and at most, in whole areas; ConfigError names the option."""
    found = []
    for option, text in (("--ram", ram), ("--max", most or ram)):
        try:
            frames = parse_bytes(text) // FRAME_BYTES
        except ValueError as error:
            raise ConfigError(option, str(error)) from None
        if frames < AREA_FRAMES:
            raise ConfigError(option, f"{text!r}: at least 2 MiB")
        found.append((frames + AREA_FRAMES - 1) // AREA_FRAMES * AREA_FRAMES)
    if found[0] > found[1]:
        raise ConfigError("--max", f"{most!r} is less than --ram, {ram!r}")
    return found[0], found[1]


def _hypervisor(options: Options, ram_frames: int, max_frames: int) -> Hypervisor:
    from hypervisor.config import DomainConfig  # one that runs needs none of it
    from memcoord.testbed.live.hypervisor import Hypervisor

    size = max_frames * FRAME_BYTES * (1 + TMEM_SHARE) + SLACK_BYTES
    domain = DomainConfig(
        name=options.name,
        maxmem_frames=max_frames,
        boot_frames=ram_frames,
        target_frames=ram_frames,
        ram_min_frames=AREA_FRAMES,
        mechanism=MECHANISM,
    )
    return Hypervisor(size if options.memory is None else options.memory, domains=[domain])


def _run_there(where: Path, argv: Sequence[str], options: Options, max_frames: int) -> Outcome:
    lent: list[Lent] = []
    domain = join(
        str(where), options.name, max_frames,
        doorbell="futex", timeout_s=ATTACH_S, wait=True, token="", mechanism=MECHANISM,
        lend=lambda handles: lent.append(Lent.of(handles)),
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.enter_context(domain)
        for fd in lent[0]:
            stack.callback(os.close, fd)
        if domain.granule_frames != 1:
            raise MemcoordError(
                f"domain {options.name} is resized in steps of {domain.granule_frames} frames: "
                f'configure it with mechanism = "{MECHANISM}" to run programs in it'
            )
        slots = max(max_frames * SLOTS_PER_FRAME, SLOTS_LEAST)
        directory = options.swap_dir or tempfile.gettempdir()
        family = stack.enter_context(Family(domain, lent[0], slots, directory))
        return run(argv, domain, family)


def _show(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        sys.stderr.write(msgspec.json.encode(outcome).decode() + "\n")
    else:
        for line in outcome.lines():
            _tell(line)


def _tell(line: str) -> None:
    sys.stderr.write(f"memcoord: {line}\n")
