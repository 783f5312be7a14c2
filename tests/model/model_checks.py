"""Building the model checker around the product's C, or around a mutant of it, and running it.

Owns: which sources make which checking program, and the reading of what a program reports. The
tests beside this file call it. The sources are copied first, so that a mutant changes a copy.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

HERE = Path(__file__).resolve().parent
CC = os.environ.get("CC", "gcc")
#: The folders of C whose files are checked, as they lie in the checkout.
FOLDERS = ("hypervisor/public/abi", "frontend/abi")
#: Program -> the sources it is made of: ours beside this file, then the product's.
ALLOCATOR = ("frames.c", "search.c", "reclaim.c", "layout.c", "ring.c")
PROGRAMS = {
    "ring": (("check_ring.c",), ("ring.c", "bell.c")),
    "frames": (("check_frames.c", "frames_world.c"), ALLOCATOR),
    "mapping": (("check_mapping.c", "frames_world.c"), ALLOCATOR),
}
FLAGS = ("-std=gnu11", "-O2", "-g", "-pthread")
RUN_TIMEOUT_S = 280


class Mutant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One change of a source that takes a protection away."""

    what: str
    program: str
    model: str
    file: str
    old: str
    new: str
    times: int = 1
    harmless: str = ""

    def apply(self, sources: Path) -> None:
        """Change the copy; the text it changes must be there."""
        path = next(sources.rglob(self.file))
        text = path.read_text(encoding="utf-8")
        count = text.count(self.old)
        assert count == self.times, f"{self.file} has {self.old!r} {count} times, not {self.times}"
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


class _Mutants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mutant: list[Mutant]


def mutants() -> list[Mutant]:
    """Those of ``mutants.toml``."""
    return msgspec.toml.decode((HERE / "mutants.toml").read_bytes(), type=_Mutants).mutant


class Result(msgspec.Struct, frozen=True):
    """What a program says of one configuration."""

    name: str
    model: str
    preemptions: int
    executions: int
    verdict: str
    why: str
    steps: list[str]


def copy_sources(checkout: Path, to: Path) -> Path:
    """The checked sources, as they are."""
    for folder in FOLDERS:
        shutil.copytree(checkout / folder, to / folder, ignore=shutil.ignore_patterns("*.o"))
    return to


def build(sources: Path, program: str) -> Path:
    """Compile one program around ``sources``; the path of the program."""
    if platform.machine() != "x86_64":
        pytest.skip("the coroutines of the model checker are written for x86-64")
    includes = [f"-I{sources / folder}" for folder in FOLDERS]
    objects = sources / "objects" / program
    objects.mkdir(parents=True)
    own, theirs = PROGRAMS[program]
    wanted = [HERE / "mcheck.c", *(HERE / name for name in own)]
    wanted += [sources / FOLDERS[0] / name for name in theirs]
    forced = ["-include", str(HERE / "mcheck.h"), f"-I{HERE}", *includes]
    for source in wanted:
        target = ["-c", str(source), "-o", str(objects / f"{source.stem}.o")]
        _compile([*FLAGS, *forced, *target])
    path = objects / f"check-{program}"
    _compile([*FLAGS, *map(str, objects.glob("*.o")), "-o", str(path)])
    return path


def _compile(arguments: list[str]) -> None:
    done = subprocess.run([CC, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run(program: Path, model: str, executions_max: int, more: int = 0) -> list[Result]:
    """Every configuration in its order, up to the first that fails."""
    done = subprocess.run(
        [str(program), model, str(executions_max), str(more)],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    results = [msgspec.json.decode(line, type=Result) for line in done.stdout.splitlines()]
    failed = any(result.verdict == "failed" for result in results)
    assert done.returncode == int(failed), f"{program.name} ended with {done.returncode}"
    return results


def in_parallel(jobs: list[tuple[Path, str, int]]) -> list[list[Result]]:
    """Run several programs, as many at a time as there are cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda job: run(*job), jobs))
