"""``memcoord exec``: any program of this machine, unmodified, in a domain.

Owns: the choice between a running hypervisor and one of its own, the sizes, and what is printed at
the end, on standard error: standard output is the program's. Whether the program, and this machine,
can be served is found out before anything is started.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from frontend.pager import servable
from frontend.pager.program import (
    Outcome,
    environment,
    in_domain,
    run,
    run_without_limit,
    sent_on,
)
from hypervisor.public.errors import ConfigError, MemcoordError
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, parse_bytes
from memcoord.testbed.runs import userfaults

if TYPE_CHECKING:
    from memcoord.testbed.live.hypervisor import Hypervisor

MECHANISM = "balloon"
BOXED = "memcoord.testbed.guests.boxed"
#: Of what comes back from a sandbox.
ANSWER_BYTES_MAX = 1 << 16
#: Of a hypervisor of one's own, beside the domain's largest size: tmem, and its slack.
TMEM_SHARE = 1
SLACK_BYTES = 16 << 20


class Options(msgspec.Struct, frozen=True):
    """The options as given: sizes with their units, directories, None for a default."""

    name: str
    ram: str
    most: str | None
    run_dir: str | None
    memory: str | None
    swap_dir: str | None
    sandbox: bool = False
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


def exec_command(argv: Sequence[str], options: Options, as_json: bool) -> int:
    """Run ``argv``; its exit code. ConfigError when an option is wrong."""
    ram_frames, max_frames = _sizes(options.ram, options.most)
    if options.run_dir is not None and options.memory is not None:
        raise ConfigError("--memory", "a running hypervisor (--run-dir) has its memory already")
    file = servable.find(argv[0])
    if file is None:
        raise ConfigError("PROGRAM", f"{argv[0]}: not found, or not executable")
    _check_sandbox(options)
    limits = _limits_of_sandbox() if options.sandbox else userfaults.probe().obstacle()
    obstacle = servable.obstacle(file) or limits
    if obstacle and options.sandbox:
        raise ConfigError("--sandbox", f"{argv[0]} cannot be given a limit: {obstacle}")
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
    from memcoord.testbed.live.compiling import compile_first
    from memcoord.testbed.live.hypervisor import Hypervisor

    compile_first(_tell)
    size = max_frames * FRAME_BYTES * (1 + TMEM_SHARE) + SLACK_BYTES
    if options.memory is not None:
        size = _memory(options.memory, ram_frames * FRAME_BYTES + SLACK_BYTES)
    domain = DomainConfig(
        name=options.name,
        maxmem_frames=max_frames,
        boot_frames=ram_frames,
        target_frames=ram_frames,
        ram_min_frames=AREA_FRAMES,
        mechanism=MECHANISM,
    )
    return Hypervisor(size, domains=[domain])


def _memory(text: str, least_bytes: int) -> int:
    """In bytes; ConfigError when the domain could not even start in it."""
    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise ConfigError("--memory", str(error)) from None
    if size < least_bytes:
        least = f"{least_bytes >> 20} MiB"
        raise ConfigError("--memory", f"{text!r}: --ram and the hypervisor need {least} at least")
    return size


def _run_there(where: Path, argv: Sequence[str], options: Options, max_frames: int) -> Outcome:
    swap_dir = options.swap_dir or tempfile.gettempdir()
    if options.sandbox:
        return _run_boxed(where, argv, options, max_frames, swap_dir)
    with in_domain(str(where), options.name, max_frames, MECHANISM, swap_dir) as (domain, family):
        preloaded = environment(os.environ, family)
        return run(lambda: subprocess.Popen(argv, env=preloaded), domain, family)


def _run_boxed(
    where: Path, argv: Sequence[str], options: Options, max_frames: int, parent: str
) -> Outcome:
    """Run it in a sandbox; this process keeps its rights, and helps from outside."""
    from memcoord.testbed.guests.boxed import Orders  # a start without a sandbox needs none of it
    from memcoord.testbed.runs import sandbox
    from memcoord.testbed.runs.confine import command
    from memcoord.testbed.runs.launcher import start_python

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = servable.find(argv[0]) or ""
    box = sandbox.Sandbox(
        str(where.resolve()),
        reads=(os.path.realpath(program), *options.reads),
        builds=options.writes,
        line=theirs.fileno(),
        parent=parent,
    )
    with ours, box:
        orders = Orders(
            argv=list(argv),
            path=str(where.resolve()),
            name=options.name,
            max_frames=max_frames,
            mechanism=MECHANISM,
            line=theirs.fileno(),
            fds=box.fds,
            directory=box.directory,
        )
        words = command(box.rights, BOXED, msgspec.json.encode(orders).decode())
        kept = [fd for fd in (theirs.fileno(), *box.fds) if fd >= 0]
        with theirs:
            child = start_python(*words, pass_fds=kept)
        with child, sent_on(lambda number: ours.send(bytes([number]))):
            answer = ours.recv(ANSWER_BYTES_MAX)
    if answer.startswith(b"{"):
        return msgspec.json.decode(answer, type=Outcome)
    raise MemcoordError(answer.decode(errors="replace") or "the sandbox was ended")


def _limits_of_sandbox() -> str:
    from memcoord.testbed.runs import sandbox

    return sandbox.obstacle()


def _check_sandbox(options: Options) -> None:
    for option, paths in (("--read", options.reads), ("--write", options.writes)):
        if paths and not options.sandbox:
            raise ConfigError(
                option, "is for --sandbox: without, a program keeps its user's rights"
            )
        for path in paths:
            if not os.path.exists(path):
                raise ConfigError(option, f"no file or folder {path!r}")


def _show(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        sys.stderr.write(msgspec.json.encode(outcome).decode() + "\n")
    else:
        for line in outcome.lines():
            _tell(line)


def _tell(line: str) -> None:
    sys.stderr.write(f"memcoord: {line}\n")
