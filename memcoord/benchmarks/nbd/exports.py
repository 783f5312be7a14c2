"""The NBD servers beside which ours is measured: QEMU's and nbdkit's, each from memory.

Owns: their command lines. Each serves SIZE bytes on a Unix socket: QEMU's null-co, which reads and
writes nothing at all; QEMU over a file in memory (tmpfs); nbdkit's memory plugin.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

#: Where Linux mounts a tmpfs for everybody.
MEMORY_DIR = Path("/dev/shm")


@contextlib.contextmanager
def memory_file(size: int) -> Iterator[Path]:
    """A file of ``size`` bytes in memory, for ``ram``; removed afterwards."""
    with tempfile.NamedTemporaryFile(prefix="memcoord-nbd-", dir=MEMORY_DIR) as made:
        made.truncate(size)
        yield Path(made.name)


def _qemu(socket: Path, *node: str) -> list[str]:
    export = "type=nbd,id=export,node-name=node,name=,writable=on"
    server = f"addr.type=unix,addr.path={socket}"
    return [
        "qemu-storage-daemon", "--blockdev", ",".join(["node-name=node", *node]),
        "--nbd-server", server, "--export", export,
    ]  # fmt: skip


def null_co(socket: Path, size: int, file: Path) -> list[str]:
    """QEMU's device that does nothing."""
    return _qemu(socket, "driver=null-co", f"size={size}")


def ram(socket: Path, size: int, file: Path) -> list[str]:
    """QEMU over a file in memory."""
    return _qemu(socket, "driver=file", f"filename={file}")


def nbdkit(socket: Path, size: int, file: Path) -> list[str]:
    """nbdkit's memory, in one piece."""
    return ["nbdkit", "-f", "-U", str(socket), "memory", str(size), "allocator=malloc"]


#: By the name of their rows.
EXPORTS: dict[str, Callable[[Path, int, Path], list[str]]] = {
    "null_co": null_co,
    "qemu_ram": ram,
    "nbdkit": nbdkit,
}


def why_missing(name: str) -> str:
    """Why this server cannot take part here; empty when it can."""
    program = EXPORTS[name](Path(), 0, Path())[0]
    return "" if shutil.which(program) else f"{program} is not installed"
