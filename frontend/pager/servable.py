"""Whether a program can be paged: told before it starts.

Owns: the check of the file that would be executed. A library is loaded into dynamic programs only,
and not into those that get rights of their file's; such a program runs without a limit.
"""

from __future__ import annotations

import os
import shutil
import struct
from typing import BinaryIO

ELF = b"\x7fELF"
CLASS_64, MACHINE_X86_64 = 2, 62
PT_INTERP = 3
SCRIPT_BYTES_MAX = 256
#: A script's interpreter may be a script itself; Linux follows four.
DEPTH_MAX = 4


def find(program: str, path: str | None = None) -> str | None:
    """The file that ``program`` names, looked up in ``path`` (default: PATH), or None."""
    return shutil.which(program, path=path)


def obstacle(file: str, depth: int = 0) -> str:
    """Empty when the program in ``file`` can be paged, else why not."""
    try:
        mode = os.stat(file).st_mode
        with open(file, "rb") as opened:
            head = opened.read(SCRIPT_BYTES_MAX)
            if head[:2] == b"#!" and depth < DEPTH_MAX:
                return _of_script(head, depth)
            if head[:4] != ELF:
                return "it is no ELF file and no script"
            if mode & 0o6000:
                return "it is setuid or setgid: its loader ignores LD_PRELOAD"
            if "security.capability" in os.listxattr(file):
                return "it has capabilities of its own: its loader ignores LD_PRELOAD"
            kind, machine = head[4], struct.unpack_from("<H", head, 18)[0]
            if (kind, machine) != (CLASS_64, MACHINE_X86_64):
                return "it is not for x86-64"
            return "" if _has_loader(opened, head) else "it is linked statically"
    except (OSError, struct.error) as error:
        return f"its file cannot be read: {error}"


def _of_script(head: bytes, depth: int) -> str:
    words = head[2:].split(b"\n")[0].split()
    if not words:
        return "its first line names no interpreter"
    interpreter = os.fsdecode(words[0])
    if os.path.basename(interpreter) == "env" and len(words) > 1:
        interpreter = find(os.fsdecode(words[1])) or interpreter
    return obstacle(interpreter, depth + 1)


def _has_loader(file: BinaryIO, head: bytes) -> bool:
    start, size, count = struct.unpack_from("<Q14xHH", head, 32)
    file.seek(start)
    table = file.read(size * count)
    kinds = [struct.unpack_from("<I", table, size * index)[0] for index in range(count)]
    return PT_INTERP in kinds
