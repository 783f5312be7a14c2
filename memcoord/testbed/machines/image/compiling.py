"""Programs for a guest: C, compiled on this machine into files that need no library.

Owns: how, and with which compiler. Which programs, is ``build``'s list; any room above may have
more, by naming their sources. Called by ``build``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hypervisor.public.errors import ConfigError

HERE = Path(__file__).parent
COMPILE_S = 120.0
#: The same source gives the same bytes, wherever it lies and whenever it is compiled.
OPTIONS = (
    *("-std=gnu11", "-O2", "-ffp-contract=off", "-static", "-s", "-pthread", "-Wl,--build-id=none"),
    "-frandom-seed=memcoord",
)


class Program(NamedTuple):
    """A program of the image: its name there, and its sources, which include what is beside."""

    name: str
    sources: tuple[Path, ...]

    def texts(self) -> Iterator[bytes]:
        """Every byte that it is made of; ConfigError for a source that cannot be read."""
        headers = {header for source in self.sources for header in source.parent.glob("*.h")}
        for path in (*self.sources, *sorted(headers)):
            try:
                yield path.read_bytes()
            except OSError as error:
                raise ConfigError(f"program {self.name}", f"{path}: {error.strerror}") from None


def compiler() -> str | None:
    """The C compiler of this machine, or None."""
    wanted = [*os.environ.get("CC", "").split()[:1], "gcc", "cc"]
    return next((found for name in wanted if (found := shutil.which(name))), None)


def static_libc() -> str | None:
    """The C library that programs without libraries are made of, or None."""
    found = compiler()
    if found is None:
        return None
    try:
        words = [found, "-print-file-name=libc.a"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMPILE_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    path = done.stdout.strip()
    return path if os.path.isabs(path) else None


def compiled(program: Program) -> bytes:
    """The program as a static executable; ConfigError says what the compiler said first."""
    key, found = f"program {program.name}", compiler()
    if found is None:
        raise ConfigError(key, "there is no C compiler; apt-get install gcc libc6-dev")
    with tempfile.TemporaryDirectory(prefix="mc-") as folder:
        out = Path(folder) / program.name
        sources = [str(source.absolute()) for source in program.sources]
        includes = {f"-I{source.absolute().parent}" for source in program.sources}
        words = [found, *OPTIONS, *sorted(includes), "-o", str(out), *sources, "-lm"]
        try:
            done = subprocess.run(
                words, cwd=folder, capture_output=True, text=True, errors="replace",
                stdin=subprocess.DEVNULL, timeout=COMPILE_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ConfigError(key, f"{found} was not done in {COMPILE_S:.0f} s") from None
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "error" in line or "find" in line]
            said = lines[0] if lines else f"{found} has failed"
            advice = "; apt-get install libc6-dev" if "-lc" in said or "-lm" in said else ""
            raise ConfigError(key, f"{said}{advice}")
        return out.read_bytes()


def is_static(content: bytes) -> bool:
    """Whether an ELF file asks for no loader: it runs where there are no libraries."""
    return content.startswith(b"\x7fELF") and b"/ld-linux" not in content[:4096]
