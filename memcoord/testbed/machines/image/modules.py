"""Which modules of a kernel a guest needs, and in which order they are inserted.

Owns: what is wanted, and how a module says what it depends on: a Debian package has no
``modules.dep``, which is written when a kernel is installed, so the modules themselves are read.
Called by ``build``.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath

from hypervisor.public.errors import ConfigError

#: Without these a guest has no devices. A kernel may have any of them built in.
NEEDED = ("virtio_pci", "virtio_balloon", "virtio_mem", "virtio_console", "virtio_blk")
#: What is inserted where there is a module of the name.
WANTED = (*NEEDED, "pvpanic-pci", "zram")
_DEPENDS = re.compile(rb"\0depends=([\w,-]*)\0")
_SUFFIXES = (".ko", ".ko.xz")


def module_name(path: str) -> str | None:
    """The name of the module in a file, as other modules write it; None for any other file."""
    name = PurePath(path).name
    base, dot, _ = name.partition(".")
    if not dot or not name.endswith((*_SUFFIXES, ".ko.zst", ".ko.gz")):
        return None
    return base


def module_bytes(path: str, content: bytes) -> bytes:
    """A module as the kernel takes it; ConfigError when it is packed as busybox cannot unpack."""
    if path.endswith(".ko"):
        return content
    if path.endswith(".ko.xz"):
        return lzma.decompress(content)
    raise ConfigError("kernel", f"{path} is packed in a way that is not read here; .ko, .ko.xz are")


def depends_on(content: bytes) -> tuple[str, ...]:
    """The modules that must be there before this one."""
    found = _DEPENDS.search(content)
    return tuple(filter(None, found[1].decode().split(","))) if found else ()


def in_order(depends: Mapping[str, Iterable[str]], wanted: Iterable[str] = WANTED) -> list[str]:
    """The wanted modules that there are and all that they need, each behind what it depends on.

    What a module depends on is known by its name with ``_`` or ``-``, which the kernel takes for
    the same.
    """
    names = {name.replace("-", "_"): name for name in depends}
    order: list[str] = []
    entered: set[str] = set()

    def visit(name: str) -> None:
        known = names.get(name.replace("-", "_"))
        if known is None or known in entered:  # built in, or it is below on the way already
            return
        entered.add(known)
        for other in depends[known]:
            visit(other)
        order.append(known)

    for name in wanted:
        visit(name)
    return order
