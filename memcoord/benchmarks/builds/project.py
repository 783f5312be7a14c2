"""The project that ``memcoord bench build`` builds: where its source comes from, and what is made.

Owns: the source package of Debian and its checksum, the mirror it is fetched from, and the commands
that configure, build and clean. It is kept below the user's cache, so it is fetched once.
The tests of nlohmann-json: each is one translation unit of 150 to 450 MiB at -O2, and a link.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from hypervisor.public.errors import MemcoordError

PACKAGE, VERSION = "nlohmann-json3", "3.11.2"
FILE = "pool/main/n/nlohmann-json3/nlohmann-json3_3.11.2.orig.tar.gz"
SHA256 = "d69f9deb6a75e2580465c6c4c5111b89c4dc2fa94e3a85fcd2ffcd9a143d9273"
BYTES_MAX = 16 << 20
TOP = "json-3.11.2"
FALLBACK_MIRROR = "http://deb.debian.org/debian"
SOURCES = Path("/etc/apt")
FETCH_S = 60.0
CONFIGURE_S = 300.0
LEAST = 2
TOOLS = ("cmake", "make", "g++")
JOBS = 2
_MIRROR = re.compile(
    r"^(?:URIs:|deb(?:-src)?(?: \[[^]]*\])?)\s+(https?://\S+/debian)/?(?:\s|$)", re.MULTILINE
)

#: Tests that are built, in this order: some 530 s of CPU time, 260 s on two quiet cores.
FULL = (
    "algorithms", "allocator", "alt-string", "assert_macro", "binary_formats", "bjdata", "bson",
    "byte_container_with_subtype", "capacity", "cbor", "class_const_iterator", "class_iterator",
    "class_lexer", "class_parser", "comparison", "concepts", "constructor1", "constructor2",
    "convenience", "conversions", "deserialization", "diagnostics", "element_access1",
    "element_access2", "hash", "inspection", "items", "iterators1", "iterators2", "json_patch",
    "json_pointer", "merge_patch", "meta", "modifiers", "msgpack", "noexcept", "ordered_json",
    "ordered_map",
)  # fmt: skip


class NoProject(MemcoordError):
    """There is nothing to build here; the text says what is missing."""


class Project(NamedTuple):
    """A configured tree."""

    build: Path
    names: tuple[str, ...]

    @property
    def make(self) -> list[str]:
        """What is run in the domain; it builds everything after ``clean``."""
        return ["make", "-C", str(self.build), f"-j{JOBS}", "--no-print-directory",
                *(f"test-{name}_cpp11" for name in self.names)]  # fmt: skip

    def clean(self) -> None:
        """Remove what the build made; NoProject when that fails."""
        _run(["make", "-C", str(self.build), "clean"])

    @property
    def outputs(self) -> list[str]:
        """The files that a build writes and ``clean`` removes, all but a few small ones."""
        tests, found = self.build / "tests", []
        for name in self.names:
            folder = tests / "CMakeFiles" / f"test-{name}_cpp11.dir"
            found += [folder / "src" / f"unit-{name}.cpp.o", tests / f"test-{name}_cpp11"]
        return [str(path) for path in found]


def tests_of(scale: float) -> tuple[str, ...]:
    """A part of FULL, at least LEAST of its tests, spread evenly."""
    count = min(max(round(len(FULL) * scale), LEAST), len(FULL))
    return tuple(FULL[index * len(FULL) // count] for index in range(count))


def ready(where: Path, scale: float) -> Project:
    """Fetch, unpack below ``where`` and configure; NoProject says in one line what is missing."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise NoProject(f"no build to measure: {' and '.join(missing)} not installed")
    with tarfile.open(fileobj=io.BytesIO(_source())) as archive:
        archive.extractall(where, filter="data")
    data, build = where / "data", where / "build"
    data.mkdir()
    _run([
        "cmake", "-S", str(where / TOP), "-B", str(build), "-G", "Unix Makefiles",
        "-DJSON_BuildTests=ON", f"-DJSON_TestDataDirectory={data}", "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_CXX_FLAGS_RELEASE=-O2",
    ])  # fmt: skip
    return Project(build, tests_of(scale))


def facts() -> dict[str, str]:
    """What is built, and with what: for the result."""
    found = {"package": PACKAGE, "version": VERSION, "sha256": SHA256, "jobs": str(JOBS)}
    for tool in TOOLS:
        said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False)
        found[tool] = (said.stdout.splitlines() or [""])[0]
    return found


def cache() -> Path:
    """Where sources are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "memcoord" / "sources"


def mirrors(apt: Path = SOURCES) -> list[str]:
    """Debian mirrors of this machine's package manager, then the general one."""
    found = []
    for path in _sources(apt):
        found += _MIRROR.findall(path.read_text(encoding="utf-8", errors="replace"))
    return list(dict.fromkeys([*found, FALLBACK_MIRROR]))


def _sources(apt: Path) -> Iterable[Path]:
    parts = apt / "sources.list.d"
    paths = [apt / "sources.list", *(sorted(parts.iterdir()) if parts.is_dir() else [])]
    return (path for path in paths if path.is_file())


def _source() -> bytes:
    """The source package, fetched unless it is kept already, and kept where that can be."""
    kept = cache() / Path(FILE).name
    with contextlib.suppress(OSError):
        body = kept.read_bytes()
        if _is_right(body):
            return body
    problem = ""
    for mirror in mirrors():
        try:
            with urllib.request.urlopen(f"{mirror}/{FILE}", timeout=FETCH_S) as answer:
                body = bytes(answer.read(BYTES_MAX))
        except (OSError, HTTPException) as error:
            problem = f"{mirror} cannot be reached: {error}"
            continue
        if _is_right(body):
            with contextlib.suppress(OSError):  # no place: it is fetched again next time
                _keep(kept, body)
            return body
        problem = f"{mirror} has another file"
    raise NoProject(f"no source of {PACKAGE} {VERSION}: {problem}")


def _keep(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(body)
    fresh.replace(path)


def _is_right(body: bytes) -> bool:
    return hashlib.sha256(body).hexdigest() == SHA256


def _run(argv: list[str]) -> None:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CONFIGURE_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NoProject(f"{argv[0]} took more than {CONFIGURE_S:.0f} s") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise NoProject(f"{argv[0]} failed: {' '.join(last)}")
