"""Which programs ``memcoord bench programs`` runs, at which sizes, and how each is made ready.

Owns: ``PROGRAMS`` and the two sets of sizes. ``ready`` writes sources and input into a directory of
the bench and builds what must be built; a program whose tool is not installed is none (None).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from memcoord.benchmarks.programs import sources

BUILD_S = 120.0
#: One thread in numpy's library; text sorted by bytes on every machine.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C"}
JAVA = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Xmx160m",
    "-XX:-UsePerfData",
)


@dataclass(frozen=True)
class Program:
    """One program: ``argv`` of its directory and its size; ``tools`` it cannot do without.

    ``is_squeezed``: whether it takes part where memory is short. A compiler does not: it needs
    little, and is several processes.
    """

    name: str
    argv: Callable[[Path, int], list[str]]
    tools: tuple[str, ...] = ()
    is_squeezed: bool = True

    def ready(self, directory: Path, size: int) -> list[str] | None:
        """The words of its command; None where a tool is missing. OSError, CalledProcessError."""
        if any(shutil.which(tool) is None for tool in self.tools):
            return None
        return self.argv(directory, size)


def _python(name: str, text: str, *numbers: int) -> Callable[[Path, int], list[str]]:
    """A Python program; each of ``numbers`` times the size is one of its words."""

    def argv(directory: Path, size: int) -> list[str]:
        (directory / f"{name}.py").write_text(text, encoding="utf-8")
        words = [str(number * size) for number in numbers]
        return [sys.executable, "-P", str(directory / f"{name}.py"), *words]

    return argv


def _pagerank(directory: Path, size: int) -> list[str]:
    argv = _python("pagerank", sources.PAGERANK, 100, 1000)(directory, size)
    return [*argv, "6"]


def _hashes(directory: Path, size: int) -> list[str]:
    (directory / "hashes.cc").write_text(sources.HASHES, encoding="utf-8")
    _build(directory, "g++", "-O2", "-o", "hashes", "hashes.cc")
    return [str(directory / "hashes"), str(100 * size), str(200 * size)]


def _heap(directory: Path, size: int) -> list[str]:
    (directory / "Heap.java").write_text(sources.HEAP, encoding="utf-8")
    _build(directory, "javac", "Heap.java")
    return ["java", *JAVA, "-cp", str(directory), "Heap", str(100 * size)]


def _sort(directory: Path, size: int) -> list[str]:
    (directory / "lines").write_text(sources.text_lines(100 * size), encoding="ascii")
    return ["sort", "--parallel=1", "-S", "400M", "-o", "/dev/null", str(directory / "lines")]


def _gcc(directory: Path, size: int) -> list[str]:
    (directory / "big.c").write_text(sources.c_functions(size), encoding="ascii")
    return ["gcc", "-O1", "-c", "-o", str(directory / "big.o"), str(directory / "big.c")]


def _build(directory: Path, *command: str) -> None:
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=BUILD_S)


PROGRAMS = (
    Program("pagerank", _pagerank),
    Program("objects", _python("objects", sources.OBJECTS, 100, 200)),
    Program("sqlite", _python("sqlite", sources.SQLITE, 100)),
    Program("sort", _sort, ("sort",)),
    Program("hashes", _hashes, ("g++",)),
    Program("java", _heap, ("java", "javac")),
    Program("gcc", _gcc, ("gcc",), is_squeezed=False),
)


@dataclass(frozen=True)
class Sizes:
    """How much of everything one run of the bench does."""

    programs: Mapping[str, int]  # a program that is not here does not run
    touch_mib: int  # records of the touching program
    touch_ram_mib: int  # what it is given
    touches: int
    fall_mib: int  # a target falls from twice that to it
    fall_s: float  # how long the program is busy meanwhile, at most
    shares: tuple[int, ...]  # percent of need
    on_file: tuple[str, ...]  # programs run with a swap file, at the first share
    starts: int  # starts by the command in each round


FULL = Sizes(
    programs={
        "pagerank": 3000, "objects": 1000, "sqlite": 2500, "sort": 3000, "hashes": 3000,
        "java": 2000, "gcc": 250,
    },
    touch_mib=96, touch_ram_mib=84, touches=60_000, fall_mib=48, fall_s=3.0,
    shares=(75, 50), on_file=("pagerank", "sqlite", "sort"), starts=3,
)  # fmt: skip
QUICK = Sizes(
    programs={"objects": 300, "sort": 300},
    touch_mib=24, touch_ram_mib=24, touches=4_000, fall_mib=24, fall_s=1.0,
    shares=(75,), on_file=("sort",), starts=1,
)  # fmt: skip
