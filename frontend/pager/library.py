"""The pager's shared object: where it lies, and its functions for this process.

Owns: the path, and the types of ``abi/command.h`` for ctypes. The object is an extension module by
its name only: it has no init function, and is loaded into programs that are no Python.
"""

from __future__ import annotations

import ctypes
import sysconfig
from pathlib import Path
from typing import Any

from hypervisor.public.errors import NotCompiled

#: What tells the library which domain it is of: the command's socket.
DOMAIN_VARIABLE = "MEMCOORD_DOMAIN"

_NAME = "_pager"


def path() -> Path:
    """The shared object; NotCompiled when there is none."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    found = Path(__file__).with_name(f"{_NAME}{suffix}")
    if not found.is_file():
        raise NotCompiled(f"frontend.pager.{_NAME}")
    return found


def load() -> Any:
    """Its functions, typed."""
    lib = ctypes.CDLL(str(path()))
    u64, i64, u32, number = ctypes.c_uint64, ctypes.c_int64, ctypes.c_uint32, ctypes.c_int
    lib.mcp_command_family_bytes.restype = u64
    lib.mcp_command_family_bytes.argtypes = [u64]
    lib.mcp_command_open.argtypes = [number, number, number, number, u64, u64, u32, u32]
    lib.mcp_command_limit.argtypes = [i64]
    lib.mcp_command_bury.argtypes = [number]
    lib.mcp_command_figure.argtypes = [number, ctypes.POINTER(ctypes.c_char_p)]
    lib.mcp_command_figure.restype = i64
    lib.mcp_command_row_pages.argtypes = [number]
    lib.mcp_command_row_pages.restype = i64
    lib.mcp_command_wait_ns.argtypes = [u64]
    lib.mcp_command_wait_ns.restype = u64
    return lib
