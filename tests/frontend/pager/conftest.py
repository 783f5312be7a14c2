"""What the tests of programs share: one hypervisor, the command, and programs built from C."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypervisor.config import DomainConfig
from memcoord.testbed.live.hypervisor import Hypervisor
from memcoord.testbed.runs import userfaults

HERE = Path(__file__).parent
RUN_S = 120
MIB_FRAMES = 256
#: Domains of the shared hypervisor: their RAM in MiB, of at most MOST_MIB each.
DOMAINS = {"small": 12, "middle": 48, "wide": 160}
MOST_MIB = 256
MEMORY = "512 MiB"

Exec = Callable[..., tuple[subprocess.CompletedProcess[str], dict[str, Any]]]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hypervisor]:
    """A hypervisor with a domain of each size; skips where this machine cannot page programs."""
    obstacle = userfaults.probe().obstacle()
    if obstacle:
        pytest.skip(obstacle)
    domains = [
        DomainConfig(
            name=name,
            maxmem_frames=MOST_MIB * MIB_FRAMES,
            boot_frames=mib * MIB_FRAMES,
            target_frames=mib * MIB_FRAMES,
            ram_min_frames=4 * MIB_FRAMES,
            mechanism="balloon",
        )
        for name, mib in DOMAINS.items()
    ]
    directory = tmp_path_factory.mktemp("run")
    with Hypervisor(MEMORY, domains=domains, run_dir=directory, interval_ms=50) as hypervisor:
        yield hypervisor


@pytest.fixture
def words(served: Hypervisor, tmp_path: Path) -> Callable[[list[str], str], list[str]]:
    """The words of a ``memcoord exec`` in a domain of ``served``."""

    def of(argv: list[str], domain: str) -> list[str]:
        most = ["--ram", "8MiB", "--max", f"{MOST_MIB}MiB"]
        where = ["--name", domain, "--run-dir", str(served.run_dir), "--swap-dir", str(tmp_path)]
        return [sys.executable, "-m", "memcoord", "exec", *where, *most, "--json", "--", *argv]

    return of


@pytest.fixture
def paged(words: Callable[[list[str], str], list[str]]) -> Exec:
    """Run a program by ``memcoord exec``: its result, and the figures."""

    def run(
        argv: list[str], domain: str = "middle", **options: Any
    ) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        done = subprocess.run(
            words(argv, domain),
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
            **options,
        )
        last = done.stderr.strip().splitlines()[-1:]
        return done, json.loads(last[0]) if last and last[0].startswith("{") else {}

    return run


@pytest.fixture(scope="session")
def mapper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random mapper, built."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler")
    out = tmp_path_factory.mktemp("mapper") / "mapper"
    flags = ["-std=gnu11", "-O2", "-D_GNU_SOURCE", "-pthread"]
    subprocess.run([compiler, *flags, str(HERE / "mapper.c"), "-o", str(out)], check=True)
    return out
