"""The private half of mechanisms, domains and recovery: every static function and device struct.

Owns: one library, compiled once per session by plain ``cc`` from the checkout: the files of
``SOURCES`` as one source without ``static``, linked with the rest of the host half. Compiling
them together also proves that no two of these files have a static name in common. And
``fault``, which makes a case for check_lab.py out of a row: what is spoilt, which function is
called.
Rules: a struct that another module made is given by address: no C file has global state.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cffi import FFI
from check_lab import VM1, CheckLab, Fault

from backend._service import ffi as service
from hypervisor.public._cdef import ABI_HEADERS, COMPILE_ARGS, cdef_of

ROOT = Path(__file__).resolve().parents[2]
PUBLIC, PRIVATE = ROOT / "hypervisor" / "public" / "abi", ROOT / "backend" / "abi"
HEADERS = ["area_run.h", "virtio_mem_device.h", "sections_device.h", "cmm_dom0.h"]
SOURCES = ["mech_balloon.c", "mech_virtio_mem.c", "virtio_mem_requests.c"]
SOURCES += ["virtio_mem_watch.c", "mech_sections.c", "sections_plan.c", "mech_cmm.c"]
SOURCES += ["cmm_channel.c", "cmm_dom0.c", "mech_hyperalloc.c"]
SOURCES += ["books.c", "recount.c", "recover.c", "punch.c", "reap.c", "domain.c", "keeper.c"]
SOURCES += ["worker.c", "service.c"]
#: Of the host half; what Python may know of them is declared, and they are included as they are.
DECLARED = ["host", "ledger", "banks", "mechanism", "books", "recover", "keeper", "reap"]
PROTOCOLS = ["balloon.h", "virtio_mem.h", "sections.h", "cmm.h"]
DEVICES = {
    "direct": "void *",
    "balloon": "struct mc_balloon *",
    "virtio-mem": "struct mc_vmem *",
    "sections": "struct mc_sections *",
    "cmm": "struct mc_cmm *",
    "hyperalloc": "struct mc_hyperalloc *",
}
COMPILE_S = 300
STRUCT = re.compile(r"^(?:struct|enum) \w+ \{[^}]*\};", re.MULTILINE)
DEFINE = re.compile(r"^#define MC_\w+ \d+$", re.MULTILINE)
FUNCTION = re.compile(r"^(?:static )?(?:inline )?([a-z][^;{}#()=]*\([^;{}]*?\))\n\{", re.MULTILINE)
CALL = re.compile(r"\b(\w+)\(")
PART = re.compile(r"\w+|\[\d+\]")
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


@functools.cache
def load() -> tuple[FFI, Any]:
    """The declarations, and the library."""
    directory = Path(tempfile.mkdtemp(prefix="memcoord-mechs-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    library, unit = directory / "mechs.so", directory / "mechs.c"
    unit.write_text(_unit(), encoding="utf-8")
    others = [path for path in PRIVATE.glob("*.c") if path.name not in SOURCES]
    others += PUBLIC.glob("*.c")
    options = [*COMPILE_ARGS, "-O0", "-D_GNU_SOURCE", "-shared", "-fPIC", "-Wno-missing-prototypes"]
    command = [*os.environ.get("CC", "cc").split(), *options, f"-I{PRIVATE}", f"-I{PUBLIC}"]
    subprocess.run([*command, "-o", library, unit, *others], check=True, timeout=COMPILE_S)
    ffi = FFI()
    ffi.cdef(_declarations())
    return ffi, ffi.dlopen(str(library))


def _unit() -> str:
    """The mechanisms as one source; what system headers call static stays so."""
    system = sorted({line for name in SOURCES for line in _system_includes(name)})
    includes = [f'#include "{name}"' for name in SOURCES]
    declared = [f'#include "{name}.h"' for name in DECLARED]
    return "\n".join([*system, *declared, *_bare, *includes])


_bare = ["#define static", "#define inline"]


def _system_includes(name: str) -> list[str]:
    return re.findall(
        r"^#include <.*>$", (PRIVATE / name).read_text(encoding="utf-8"), re.MULTILINE
    )


def _text(path: Path) -> str:
    return re.sub(r" +$", "", COMMENT.sub("", path.read_text(encoding="utf-8")), flags=re.MULTILINE)


def _declarations() -> str:
    public = [cdef_of(PUBLIC / f"{name}.h") for name in ABI_HEADERS]
    private = [cdef_of(PRIVATE / f"{name}.h") for name in DECLARED]
    texts = [_text(PUBLIC / name) for name in PROTOCOLS]
    texts += [_text(PRIVATE / name) for name in HEADERS + SOURCES]
    defines = [match[0] for text in texts for match in DEFINE.finditer(text)]
    structs = [match[0] for text in texts for match in STRUCT.finditer(text)]
    known = set(CALL.findall("\n".join(private)))
    heads = [match[1] for text in texts for match in FUNCTION.finditer(text)]
    functions = [f"{head};" for head in heads if CALL.findall(head)[0] not in known]
    types = ["typedef unsigned long pthread_t;", *defines, *structs]
    return "\n".join([*public, *private, *types, *functions])


@functools.cache
def file_of(function: str) -> str:
    """The C file or header that a function of the mechanisms stands in."""
    pattern = re.compile(rf"^(?!\s).*\b{function}\([^;{{}}]*\)\n\{{", re.MULTILINE)
    return next(name for name in SOURCES + HEADERS if pattern.search(_text(PRIVATE / name)))


class Private:
    """The host and domain of a lab, and the device of the domain, as the library sees them."""

    def __init__(self, lab: CheckLab, mechanism: str) -> None:
        self.ffi, self.lib = load()
        self.host = self._same("struct mc_host *", lab.host)
        self.domain = self._same("struct mc_domain *", lab.pointer(VM1))
        self.device = self.ffi.cast(DEVICES[mechanism], self.domain.device)

    def _same(self, kind: str, pointer: Any) -> Any:
        return self.ffi.cast(kind, int(service.cast("uintptr_t", pointer)))

    def get(self, path: str) -> Any:
        """What a path says: ``device.regions[0].plugged``."""
        found: Any = self
        for part in PART.findall(path):
            found = found[int(part[1:-1])] if part[0] == "[" else getattr(found, part)
        return found

    def set(self, path: str, value: Any) -> Any:
        """Overwrite a word; what it was."""
        before = self.get(path)
        value = self.ffi.NULL if value is None else value
        parent, last = self.get(path[: path.rindex(PART.findall(path)[-1])]), PART.findall(path)[-1]
        if last[0] == "[":
            parent[int(last[1:-1])] = value
        else:
            setattr(parent, last, value)
        return before

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function. A string is a path, a tuple or dict a struct, a number for a pointer
        what it points to."""
        found = getattr(self.lib, function)
        kinds = self.ffi.typeof(found).args
        assert len(kinds) == len(arguments), function
        return found(*map(self._argument, kinds, arguments))

    def _argument(self, kind: Any, value: Any) -> Any:
        if isinstance(value, tuple):
            value = tuple(self.get(v) if isinstance(v, str) else v for v in value)
        if isinstance(value, str):
            value = self.get(value)
            is_struct = (
                isinstance(value, self.ffi.CData) and self.ffi.typeof(value).kind == "struct"
            )
            return self.ffi.addressof(value) if is_struct and kind.kind == "pointer" else value
        if kind.kind == "struct":
            return self.ffi.new(self.ffi.getctype(kind, "*"), value)[0]
        if kind.kind == "pointer" and value is not None:
            return self.ffi.new(kind, value)
        return self.ffi.NULL if value is None else value


def fault(
    mechanism: str,
    name: str,
    spoilt: dict[str, Any],
    *call: Any,
    reports: str = "",
    first: tuple[Any, ...] = (),
    detaches: bool = False,
    locked: bool = True,
    options: dict[int, int] | None = None,
) -> Fault:
    """A domain of the mechanism is opened, words are ``spoilt``, then a function is called, which
    (or the function ``reports``) must report. ``first`` is called before, without the lock."""

    def inject(lab: CheckLab) -> None:
        lab.open(mechanism=mechanism, options=options)
        private = Private(lab, mechanism)
        if first:
            private.call(*first)
        if locked:
            private.call("mc_host_lock", "host")
        before = {path: private.set(path, value) for path, value in spoilt.items()}
        private.call(*call)
        for path, value in before.items():
            private.set(path, value)
        if locked:
            private.call("mc_host_unlock", "host")

    function = reports or str(call[0])
    file = file_of(function)
    return Fault(f"{mechanism}, {function}: {name}", file, function, inject, detaches, load)
