"""The C of both halves built for 64-bit ARM and run under qemu-user, where a machine has the tools.

Owns: which sources make which program, and how they are built and run. ``both_halves`` lives one
domain under every mechanism, in two processes (tests/aarch64/both_halves.c); the model checkers of
tests/model run ring, bells and allocator under interleavings of their own. It needs a checkout: the
sources are not installed. Python, tmem's kernels and the pager are not run there.
Called by: the claim B4, tests/aarch64.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

COMPILER = "aarch64-linux-gnu-gcc"
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
CHECKOUT = Path(__file__).resolve().parents[2]
ABI, BACKEND, FRONTEND = "hypervisor/public/abi", "backend/abi", "frontend/abi"
FLAGS = ("-std=gnu11", "-O1", "-pthread", "-D_GNU_SOURCE")
#: Needs Python's headers; what it makes is Python's.
LEFT_OUT = frozenset(("fastcall.c",))
ALLOCATOR = ("frames.c", "search.c", "reclaim.c", "layout.c", "ring.c")
#: Program of tests/model -> its own sources, the product's, and executions of a configuration.
MODELS = {
    "ring": (("check_ring.c",), ("ring.c", "bell.c"), 2_000),
    "frames": (("check_frames.c", "frames_world.c"), ALLOCATOR, 150),
    "mapping": (("check_mapping.c", "frames_world.c"), ALLOCATOR, 300),
}
MODEL = "weak"
RUN_TIMEOUT_S = 180.0
JOBS = 2


@dataclass(frozen=True)
class Tools:
    """What builds and what runs; ``runner`` is empty where this machine runs it itself."""

    compiler: str
    runner: tuple[str, ...] = ()


def tools() -> Tools | str:
    """Those for ARM; or why it cannot be tried, and what would help."""
    emulator = next((name for name in EMULATORS if shutil.which(name)), "")
    missing = [] if shutil.which(COMPILER) else [f"{COMPILER} (gcc-aarch64-linux-gnu)"]
    missing += [] if emulator else [f"{EMULATORS[0]} (qemu-user-static)"]
    if not (CHECKOUT / "tests" / "aarch64").is_dir():
        missing.append("a checkout with its tests")
    return f"needs {', '.join(missing)}" if missing else Tools(COMPILER, (emulator,))


def build(with_: Tools, out: Path) -> dict[str, Path]:
    """Every program, by name. CalledProcessError with what the compiler says."""
    out.mkdir(parents=True, exist_ok=True)
    halves = [
        *(path for folder in (ABI, BACKEND, FRONTEND) for path in (CHECKOUT / folder).glob("*.c")),
        CHECKOUT / "tests" / "aarch64" / "both_halves.c",
    ]
    halves = [path for path in halves if path.name not in LEFT_OUT]
    includes = [f"-I{CHECKOUT / folder}" for folder in (ABI, BACKEND, FRONTEND)]
    jobs: dict[str, list[tuple[Path, list[str]]]] = {
        "both_halves": [(path, includes) for path in halves]
    }
    model = CHECKOUT / "tests" / "model"
    forced = ["-include", str(model / "mcheck.h"), f"-I{model}", *includes]
    for name, (own, theirs, _) in MODELS.items():
        sources = [model / "mcheck.c", *(model / one for one in own)]
        sources += [CHECKOUT / ABI / one for one in theirs]
        jobs[name] = [(path, forced) for path in sources]
    with ThreadPoolExecutor(JOBS) as pool:
        for name, sources_of in jobs.items():
            folder = out / f"{name}.objects"
            folder.mkdir()
            calls = [
                [with_.compiler, *FLAGS, *more, "-c", str(path),
                 "-o", str(folder / f"{path.parent.parent.name}_{path.stem}.o")]
                for path, more in sources_of
            ]  # fmt: skip
            list(pool.map(_call, calls))
    for name in jobs:
        objects = map(str, (out / f"{name}.objects").glob("*.o"))
        _call([with_.compiler, "-static", "-pthread", *objects, "-o", str(out / name)])
    return {name: out / name for name in jobs}


def _call(argv: list[str]) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True)


def live(with_: Tools, program: Path) -> dict[str, str]:
    """What ``both_halves`` says of each mechanism: "ok (12 ms)", or the step that failed."""
    said = _output([*with_.runner, str(program)])
    return dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)


def explore(with_: Tools, program: Path, executions: int) -> list[dict[str, Any]]:
    """What a model checker says of each configuration, up to the first that fails."""
    said = _output([*with_.runner, str(program), MODEL, str(executions), "0"])
    return [msgspec.json.decode(line) for line in said.splitlines()]


def _output(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    return done.stdout


def tried(out: Path) -> dict[str, Any]:
    """All of it on ARM: mechanisms that lived, configurations that held; "missing" when it cannot.

    The result that claim B4 reads.
    """
    with_ = tools()
    if isinstance(with_, str):
        return {"missing": with_}
    begin_s = time.monotonic()
    try:
        programs = build(with_, out)
    except subprocess.CalledProcessError as error:
        return {"missing": f"it does not compile: {error.stderr.strip()[:160]}"}
    lived = live(with_, programs["both_halves"])
    found = {
        name: explore(with_, programs[name], executions)
        for name, (_, _, executions) in MODELS.items()
    }
    results = [one for configurations in found.values() for one in configurations]
    return {
        "mechanisms": lived,
        "lived": sum(said.startswith("ok") for said in lived.values()),
        "configurations": len(results),
        "broken": sum(one["verdict"] == "failed" for one in results),
        "executions": sum(one["executions"] for one in results),
        "elapsed_s": round(time.monotonic() - begin_s, 1),
    }
