"""Turn the project's C headers into cffi modules and Python constants: each fact stands once.

Owns: the rule that Python sees what stands between ``/* cdef-begin */`` and ``/* cdef-end */`` in a
header; the compiler flags; the text of the two generated modules, ``constants.py`` beside this file
and ``tmem/record.py``. Both are committed, because type checkers and a checkout without compiled
modules read them. After a change of a header, write them anew::

    python -m hypervisor.public._cdef

Used by the ``_build_*.py`` scripts, at build time, and by tests.
"""

from __future__ import annotations

import itertools
import os
import re
import struct
import textwrap
from pathlib import Path
from typing import Any

from cffi import FFI

ROOT = Path(__file__).resolve().parents[2]
ABI = ROOT / "hypervisor" / "public" / "abi"
ABI_HEADERS = ("layout", "ops", "frames", "reclaim", "ring", "bell", "backing")
#: Sources whose header declares nothing for Python.
PRIVATE_SOURCES = ("check", "search")
COMPILE_ARGS = ["-std=gnu11", "-O2", "-fno-math-errno", "-pthread", "-Wall", "-Wextra"]
#: Calls between the sources of a module need no detour; only its init function is seen outside.
HIDDEN = "-fvisibility=hidden"
LINK_ARGS = ["-pthread"]
#: A build in which the compiler's checks of memory and arithmetic report what they find.
if os.environ.get("MEMCOORD_SANITIZE") == "1":
    _CHECKED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g"]
    COMPILE_ARGS += [*_CHECKED, "-fno-omit-frame-pointer"]
    LINK_ARGS += _CHECKED

CONSTANTS = ROOT / "hypervisor" / "public" / "constants.py"
RECORD = ROOT / "tmem" / "record.py"
COMMAND = "python -m hypervisor.public._cdef"

_DEFINE = re.compile(r"^#define MC_(\w+) (-?(?:0[xX])?[0-9a-fA-F]+)\s*$", re.MULTILINE)
_ENUM = re.compile(r"enum mc_(\w+) {")
#: Letters of the ``struct`` module for C's integer types.
_LETTERS = {"uint16_t": "H", "uint32_t": "I", "uint64_t": "Q", "int64_t": "q"}
_REGION = re.compile(r"/\* cdef-begin \*/(.*?)/\* cdef-end \*/", re.DOTALL)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def cdef_of(header: Path) -> str:
    """The declarations of ``header`` that Python may use, without comments and ``_Atomic``."""
    text = "\n".join(_REGION.findall(header.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{header}: no cdef-begin region")
    return _COMMENT.sub("", text).replace("_Atomic ", "")


def make_ffi(
    module: str,
    headers: list[Path],
    sources: list[Path],
    *,
    abi_headers: tuple[str, ...] = ABI_HEADERS,
    preamble: str = "",
) -> FFI:
    """An FFI that compiles ``module`` from the ABI plus the given headers and sources.

    No C file of the project has global state, so the ABI sources are compiled into every module
    that calls them; modules exchange structures by address.
    """
    ffi = FFI()
    all_headers = [ABI / f"{name}.h" for name in abi_headers] + headers
    abi_sources = [ABI / f"{name}.c" for name in (*abi_headers, *PRIVATE_SOURCES) if abi_headers]
    all_sources = [path for path in abi_sources if path.exists()] + sources
    for header in all_headers:
        ffi.cdef(cdef_of(header))
    includes = "\n".join(f'#include "{header.name}"' for header in all_headers)
    directories = sorted(
        {str(path.parent.relative_to(ROOT)) for path in [ABI / "layout.h", *headers]}
    )
    ffi.set_source(
        module,
        includes + "\n" + preamble,
        sources=[str(path.relative_to(ROOT)) for path in all_sources],
        include_dirs=directories,
        depends=[str(path.relative_to(ROOT)) for path in all_headers],
        extra_compile_args=[*COMPILE_ARGS, HIDDEN],
        extra_link_args=LINK_ARGS,
        define_macros=[("_CFFI_NO_LIMITED_API", None), ("_GNU_SOURCE", None)],
        py_limited_api=False,
    )
    return ffi


def constants_text(abi: Path = ABI) -> str:
    """The text of ``hypervisor/public/constants.py`` as the headers in ``abi`` give it."""
    ffi = FFI()
    constants, enums = [], []
    for name in ABI_HEADERS:
        text = cdef_of(abi / f"{name}.h")
        ffi.cdef(text)
        constants += [f"{found}: Final = {int(value, 0)}" for found, value in _DEFINE.findall(text)]
        for enum in _ENUM.findall(text):
            values = ffi.typeof(f"enum mc_{enum}").relements
            if len(values) == 1:  # a constant that C wants as an int
                constants += [f"{key.removeprefix('MC_')}: Final = {values[key]}" for key in values]
            else:
                enums.append(_enum_text(enum, values))
    record = ffi.typeof("struct mc_record")
    fields = dict(record.fields)
    constants += [
        f'RECORD_FORMAT: Final = "{_struct_format(ffi, record)}"',
        f"RECORD_BYTES: Final = {ffi.sizeof('struct mc_record')}",
        f"RECORD_STATUS_OFFSET: Final = {fields['status'].offset}",
    ]
    head = (
        f'"""The constants and enums of the ABI\'s headers; written by ``{COMMAND}``.\n\n'
        "Owns: nothing. What a name means stands in ``hypervisor/public/abi``, where it begins with"
        " MC_, and\n``RingId``, say, is ``enum mc_ring_id``.\n"
        'Rules: do not edit; anybody may import it.\n"""\n\n# fmt: off\n'
        "from enum import IntEnum, IntFlag\nfrom typing import Final\n\n"
    )
    return head + "\n".join([*constants, "", *enums, ""])


def record_text(abi: Path = ABI) -> str:
    """The text of ``tmem/record.py``: ``struct mc_record`` for numpy and numba."""
    ffi = FFI()
    ffi.cdef(cdef_of(abi / "layout.h"))
    record = ffi.typeof("struct mc_record")
    _struct_format(ffi, record)  # refuses what numpy would lay out in another way
    fields = []
    for name, field in record.fields:
        array = field.type.kind == "array"
        kind = field.type.item.cname if array else field.type.cname
        shape = f", ({field.type.length},)" if array else ""
        fields.append(f'        ("{name}", np.{kind.removesuffix("_t")}{shape}),\n')
    return (
        '"""The layout of a request of the tmem ring; '
        f"written by ``{COMMAND}``.\n\n"
        "Owns: nothing. ``struct mc_record`` stands in ``hypervisor/public/abi/layout.h``, what\n"
        "its arguments mean in ``ops.h`` beside it.\nRules: do not edit; anybody may import it.\n"
        '"""\n\nfrom __future__ import annotations\n\nimport numpy as np\n\n'
        "RECORD = np.dtype(\n    [\n" + "".join(fields) + "    ]\n)\n"
    )


def _enum_text(enum: str, values: dict[str, int]) -> str:
    columns = zip(*(key.split("_") for key in values), strict=False)
    shared = itertools.takewhile(lambda words: len(set(words)) == 1, columns)
    prefix = "".join(f"{words[0]}_" for words in shared)
    if not all(key.removeprefix(prefix).isidentifier() for key in values):
        prefix = "MC_"
    name = "".join(part.capitalize() for part in enum.split("_"))
    base = "IntFlag" if enum.endswith("_flag") else "IntEnum"
    ordered = sorted(values, key=lambda key: abs(values[key]))
    # A no-break space keeps a name and its value on one line.
    members = ", ".join(f'"{key.removeprefix(prefix)}":\xa0{values[key]}' for key in ordered)
    text = f'{name} = {base}("{name}", {{{members}}})'
    return textwrap.fill(text, 100, subsequent_indent="    ").replace("\xa0", " ")


def _struct_format(ffi: FFI, record: Any) -> str:
    """``record`` for the ``struct`` module, little-endian; ValueError when C pads a field."""
    letters = ""
    for _, field in record.fields:
        if field.type.kind == "array":
            letters += f"{field.type.length}{_LETTERS[field.type.item.cname]}"
        else:
            letters += _LETTERS[field.type.cname]
    if struct.calcsize(f"<{letters}") != ffi.sizeof(record):
        raise ValueError(f"{record.cname}: has padding, which struct and numpy do not see")
    return f"<{letters}"


if __name__ == "__main__":
    CONSTANTS.write_text(constants_text(), encoding="utf-8")
    RECORD.write_text(record_text(), encoding="utf-8")
