"""A domain's process that runs a real program: attach, start it, wait, answer in one line.

``python -P -m memcoord.testbed.guests.program CONFIG GROUP [LINE DEVICE DIRECTORY]``: a
``GuestConfig`` as JSON, the control group to live in, if any, and in a sandbox what
``memcoord.testbed.runs.sandbox`` gives. Stands at the gates of the start barrier, as a replaying
domain does, and prints a ``GuestResult`` as one line of JSON; on failure one line on stderr says
why, exit 1. Ends at once when stdin closes, and the program with it.

Owns: where a program runs and what it is given. In the folder of its domain:

    stdout.txt, stderr.txt   what the program and all that it started wrote
    outcome.json             how it ended, what memory it had and what waiting cost
    work/                    where it runs, unless it has a ``cwd``; removed at its end
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from frontend.pager.family import Helper
from frontend.pager.program import Outcome, environment, in_domain, run
from hypervisor.public.errors import MemcoordError
from memcoord.testbed.applications import shipped
from memcoord.testbed.guests.gates import MADE, READY, stand_at
from memcoord.testbed.guests.replay import GuestConfig, GuestResult
from memcoord.testbed.guests.work import counted
from memcoord.testbed.runs import cgroups, userfaults
from memcoord.testbed.runs.launcher import end_with_parent, without_ours
from memcoord.testbed.runs.sandbox import helper_of
from memcoord.testbed.scenarios import programs
from memcoord.testbed.scenarios.programs import ProgramWorkload

STDOUT, STDERR, OUTCOME, WORK = "stdout.txt", "stderr.txt", "outcome.json", "work"
TAIL_BYTES = 8192


class Box(NamedTuple):
    """Of a sandbox: who helps, and a directory with a short name."""

    helper: Helper
    directory: str


def run_program(config: GuestConfig, work: ProgramWorkload, box: Box | None) -> GuestResult:
    """Do the domain's work; MemcoordError says what stopped it. Time counts from its start."""
    if box is None and (obstacle := userfaults.probe().obstacle()):
        raise MemcoordError(f"programs cannot be given a limit on this machine: {obstacle}")
    folder = Path(config.swap_file).parent
    cwd = _place(work, folder / WORK)
    outer = programs.environment(
        work, without_ours(os.environ), **{programs.SEED_VARIABLE: config.seed}
    )
    if box:
        outer["TMPDIR"] = str(folder / WORK)
    (folder / STDOUT).touch()
    stand_at(MADE)
    with (
        in_domain(
            config.directory,
            config.name,
            0,
            programs.MECHANISMS[0],
            str(folder),
            token=config.token,
            directory=box.directory if box else "",
            helper=box.helper if box else None,
        ) as (domain, family),
        counted(work, folder / STDOUT, outer, cwd) as counter,
    ):
        fd = getattr(counter, "fd", -1)
        if fd >= 0:
            outer[programs.WORK_VARIABLE] = str(fd)
        start = _start(work, folder, cwd, environment(outer, family), fd)
        stand_at(READY)
        begin_s = time.monotonic()
        outcome = run(start, domain, family, work=counter.units, limit_s=work.limit_s)
        units = counter.units()
    (folder / OUTCOME).write_bytes(msgspec.json.format(msgspec.json.encode(outcome)) + b"\n")
    _check(outcome, work, folder)
    return _result(outcome, units or 0, begin_s)


def _place(work: ProgramWorkload, folder: Path) -> str:
    """Where the program runs; its own folder has links to its files, and those of ours."""
    folder.mkdir(mode=0o700)
    if work.cwd:
        return str(Path(work.cwd).absolute())
    for name in work.files:
        ours = shipped.named(name)
        if ours is not None:
            shipped.unpack(ours, folder)
        else:
            (folder / Path(name).name).symlink_to(Path(name).absolute())
    return str(folder)


def _start(
    work: ProgramWorkload, folder: Path, cwd: str, env: Mapping[str, str], report_fd: int
) -> Callable[[], subprocess.Popen[bytes]]:
    def start() -> subprocess.Popen[bytes]:
        with (folder / STDOUT).open("ab") as stdout, (folder / STDERR).open("ab") as stderr:
            return subprocess.Popen(
                work.command,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=[report_fd] if report_fd >= 0 else [],
            )

    return start


def _check(outcome: Outcome, work: ProgramWorkload, folder: Path) -> None:
    """MemcoordError unless the program did its work within its domain."""
    name = work.argv[0]
    if outcome.limited:
        raise MemcoordError(f"{name} ran without a limit: {outcome.limited}")
    if outcome.exit_code:
        last = _last_line(folder / STDERR)
        raise MemcoordError(f"{name} ended with exit code {outcome.exit_code}: {last}")


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _result(outcome: Outcome, units: int, begin_s: float) -> GuestResult:
    figures = outcome.figures
    return GuestResult(
        references=units,
        faults=figures["faults"],
        tmem_hits=figures["tmem_pages_in"],
        swap_ins=figures["disk_pages_in"],
        swap_outs=figures["disk_pages_out"],
        failed_puts=figures["refused_pages"],
        pages_verified=0,
        run_s=outcome.wall_s,
        begin_s=begin_s,
    )


def main(argv: list[str]) -> int:
    """Entry point of the process."""
    if len(argv) not in (3, 6):
        sys.stderr.write("usage: CONFIG GROUP [LINE DEVICE DIRECTORY]\n")
        return 2
    end_with_parent()
    config = GuestConfig.decode(Path(argv[1]).read_bytes())
    assert isinstance(config.workload, ProgramWorkload)
    if argv[2]:
        cgroups.join(Path(argv[2]))
    box = Box(helper_of((int(argv[3]), int(argv[4]))), argv[5]) if len(argv) == 6 else None
    try:
        result = run_program(config, config.workload, box)
    except (MemcoordError, OSError) as error:
        sys.stderr.write(f"{config.name}: {error}\n")
        return 1
    finally:
        shutil.rmtree(Path(config.swap_file).parent / WORK, ignore_errors=True)
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
