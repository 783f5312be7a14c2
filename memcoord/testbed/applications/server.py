"""A database in memory that answers at a socket: sqlite, with an index, row by row.

``python -P -m memcoord.testbed.applications.server SOCKET MIB REQUESTS``

Owns: the protocol. It makes rows of ROW_BYTES until they take MIB, then listens. A client sends the
number of a row as 8 bytes, little endian, and gets 8 bytes back: a checksum of that row, which
depends on the number alone, so a client sees a wrong byte. After so many REQUESTS it ends; each
hundred is a unit of work, reported as other programs do.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import struct
import sys
import zlib
from contextlib import suppress
from pathlib import Path

ROW_BYTES = 4000
UNIT_REQUESTS = 100
MIB = 1 << 20
NUMBER = struct.Struct("<Q")
ACCEPT_S = 120.0


def row(number: int) -> bytes:
    """The content of a row."""
    return (NUMBER.pack(number * 0x9E3779B97F4A7C15 % (1 << 64)) * (ROW_BYTES // 8))[:ROW_BYTES]


def answer(number: int) -> int:
    """What is said of a row when it is right."""
    return zlib.crc32(row(number))


def rows_in(mib: int) -> int:
    """How many there are."""
    return mib * MIB // ROW_BYTES


def serve(where: Path, mib: int, requests: int, report_fd: int) -> None:
    """Make the rows, answer, end; OSError when no client comes or it goes too soon."""
    base = sqlite3.connect(":memory:")
    base.execute("create table item (number integer primary key, content blob)")
    pairs = ((number, row(number)) for number in range(rows_in(mib)))
    base.executemany("insert into item values (?, ?)", pairs)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(where))
        door.listen(1)
        door.settimeout(ACCEPT_S)
        client, _ = door.accept()
    with client, client.makefile("rb") as asked:
        for done in range(1, requests + 1):
            (number,) = NUMBER.unpack(asked.read(NUMBER.size))
            (content,) = base.execute("select content from item where number = ?", (number,))
            client.sendall(NUMBER.pack(zlib.crc32(content[0])))
            if done % UNIT_REQUESTS == 0 and report_fd >= 0:
                with suppress(OSError):  # nobody counts any more
                    os.write(report_fd, b"1\n")


def main(words: list[str]) -> int:
    """Entry point of the program."""
    where, mib, requests = Path(words[0]), int(words[1]), int(words[2])
    serve(where, mib, requests, int(os.environ.get("MEMCOORD_WORK", "-1")))
    sys.stdout.write(f"answered {requests} requests about {rows_in(mib)} rows\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
