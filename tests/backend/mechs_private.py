"""The private half of the mechanisms for tests: every static function and every device struct.

Owns: one library, compiled once per session by plain ``cc`` from the checkout: the mechanisms in one
source with ``static`` taken away, linked with the rest of the host half. Compiling them together
also proves that no two of these files have a static name in common.
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

from hypervisor.public._cdef import ABI_HEADERS, COMPILE_ARGS, cdef_of

ROOT = Path(__file__).resolve().parents[2]
PUBLIC, PRIVATE = ROOT / "hypervisor" / "public" / "abi", ROOT / "backend" / "abi"
HEADERS = ["area_run.h", "virtio_mem_device.h", "sections_device.h", "cmm_dom0.h"]
SOURCES = ["mech_balloon.c", "balloon_watch.c", "mech_virtio_mem.c", "virtio_mem_requests.c"]
SOURCES += ["virtio_mem_watch.c", "mech_sections.c", "sections_plan.c", "mech_cmm.c"]
SOURCES += ["cmm_channel.c", "cmm_dom0.c", "mech_hyperalloc.c"]
PROTOCOLS = ["balloon.h", "virtio_mem.h", "sections.h", "cmm.h"]
COMPILE_S = 300
STRUCT = re.compile(r"^(?:struct|enum) \w+ \{[^}]*\};", re.MULTILINE)
DEFINE = re.compile(r"^#define MC_\w+ \d+$", re.MULTILINE)
FUNCTION = re.compile(r"^(?:static )?(?:inline )?([a-z][^;{}#()=]*\([^;{}]*?\))\n\{", re.MULTILINE)
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
    return "\n".join([*system, '#include "mechanism.h"', '#include "banks.h"', *_bare, *includes])


_bare = ["#define static", "#define inline"]


def _system_includes(name: str) -> list[str]:
    return re.findall(r"^#include <.*>$", (PRIVATE / name).read_text(encoding="utf-8"), re.MULTILINE)


def _text(path: Path) -> str:
    return re.sub(r" +$", "", COMMENT.sub("", path.read_text(encoding="utf-8")), flags=re.MULTILINE)


def _declarations() -> str:
    public = [cdef_of(PUBLIC / f"{name}.h") for name in ABI_HEADERS]
    private = [cdef_of(PRIVATE / f"{name}.h") for name in ("host", "ledger", "banks", "mechanism")]
    texts = [_text(PUBLIC / name) for name in PROTOCOLS]
    texts += [_text(PRIVATE / name) for name in HEADERS + SOURCES]
    defines = [match[0] for text in texts for match in DEFINE.finditer(text)]
    structs = [match[0] for text in texts for match in STRUCT.finditer(text)]
    functions = [match[1] + ";" for text in texts for match in FUNCTION.finditer(text)]
    types = ["typedef unsigned long pthread_t;", *defines, *structs]
    return "\n".join([*public, *private, *types, *functions])
