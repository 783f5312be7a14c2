"""An initial file system as the kernel reads one: a cpio archive in the form "newc".

Owns: the form. The bytes depend on names, modes and content alone: no times, no owners, no inode
numbers of this machine, and entries in the order of their names. Pure; called by ``build``.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import NamedTuple

MAGIC, TRAILER = b"070701", "TRAILER!!!"
ALIGN_BYTES = 4
#: The kernel takes the end of an archive from its trailer; other programs want whole blocks.
BLOCK_BYTES = 512


class Entry(NamedTuple):
    """A file, a folder or a symbolic link (its content is where it points)."""

    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder() -> Entry:
    """A folder that everybody may enter."""
    return Entry(stat.S_IFDIR | 0o755)


def program(content: bytes) -> Entry:
    """A file that may be executed."""
    return Entry(stat.S_IFREG | 0o755, content)


def file(content: bytes) -> Entry:
    """A file that may be read."""
    return Entry(stat.S_IFREG | 0o644, content)


def console() -> Entry:
    """What the first process has as its standard files, before it mounts anything."""
    return Entry(stat.S_IFCHR | 0o600, device=(5, 1))


def archive(entries: Mapping[str, Entry]) -> bytes:
    """The archive of ``entries`` by their paths, without a slash at the front."""
    made = bytearray()
    for number, path in enumerate(sorted(entries), start=1):
        made += _record(path, number, entries[path])
    made += _record(TRAILER, 0, Entry(0))
    return bytes(made.ljust(-(-len(made) // BLOCK_BYTES) * BLOCK_BYTES, b"\0"))


def _record(path: str, number: int, entry: Entry) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    major, minor = entry.device
    words = (
        *(number, entry.mode, 0, 0, links, 0, len(entry.content)),
        *(0, 0, major, minor, len(name), 0),
    )
    head = MAGIC + b"".join(b"%08X" % word for word in words) + name
    return _padded(head) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % ALIGN_BYTES)
