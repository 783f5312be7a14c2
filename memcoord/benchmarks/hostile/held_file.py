"""A process that keeps the inode lock of a memory file, so that no hole of the file can be punched.

``write`` to a file keeps the lock of its inode while it copies; here the page that it copies from
never comes. Every ``fallocate`` on the file then waits, uninterruptibly, as long as this process
likes. Two ways to such a page, ``HOWS``:

- ``uffd``: memory registered with userfaultfd that nobody fills (root, or
  vm.unprivileged_userfaultfd=1);
- ``fuse``: a mapped file of a FUSE server that never answers a READ. No privilege but the right to
  open /dev/fuse: the mount lies in a user namespace of the process.

Owns: ``Holder``, which starts the process, and the process itself
(``python -P -m memcoord.benchmarks.hostile.held_file HOW FD``). Linux on x86-64.
Rules: a child of the process writes. The end of the process lets go of the lock: the FUSE server
ends with it, and the child is killed with it (PR_SET_PDEATHSIG), as the process is with the thread
that started it. Called by cheats and tests.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

HOWS = ("uffd", "fuse")
HELD, REFUSED = b"held\n", b"refused: "
START_S = 60.0
BLOCKED_S = 0.2  # a write that has not returned after this time waits for its page
FOREVER_S = 3600.0
PAGE = 4096
SYS_USERFAULTFD = 323
UFFDIO_API, UFFDIO_REGISTER, UFFD_MAGIC, MODE_MISSING = 0xC018AA3F, 0xC020AA00, 0xAA, 1
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS = 1, 2, 2, 0x20
PR_SET_PDEATHSIG = 1
ENOSYS, ROOT_NODE, FILE_NODE = 38, 1, 2
LOOKUP, FORGET, GETATTR, OPEN, READ, INIT, OPENDIR, BATCH_FORGET = 1, 2, 3, 14, 15, 26, 27, 42
FUSE_MESSAGE_BYTES = 1 << 20


class NotHere(Exception):
    """This machine does not give what the attack needs; the text says what."""


@functools.cache
def way_here() -> tuple[str, str]:
    """The first of HOWS that this machine gives, or "" and why it gives none."""
    whys = []
    with tempfile.TemporaryFile() as file:
        file.truncate(PAGE)
        for how in HOWS:
            try:
                Holder(how, file.fileno()).close()
            except NotHere as why:
                whys.append(str(why))
            else:
                return how, ""
    return "", "; ".join(whys)


class Holder:
    """A child process that holds the lock of the file behind ``fd`` until ``close``."""

    def __init__(self, how: str, fd: int) -> None:
        command = [sys.executable, "-P", "-m", "memcoord.benchmarks.hostile.held_file"]
        self._process = subprocess.Popen(
            [*command, how, str(fd)], pass_fds=(fd,), stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], START_S)
        line = self._process.stdout.readline() if readable else REFUSED + b"it did not start"
        if line != HELD:
            self.close()
            raise NotHere(line.removeprefix(REFUSED).decode().strip() or "the attack failed")

    @property
    def pid(self) -> int:
        """Of the process that holds the lock."""
        return self._process.pid

    def __enter__(self) -> Holder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the lock: the process is killed."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.mmap.restype = ctypes.c_void_p
    libc.pwrite.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
    return libc


def _checked(result: int | None, what: str) -> int:
    if result is None or result < 0 or result == ctypes.c_void_p(-1).value:
        raise NotHere(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _map(libc: ctypes.CDLL, prot: int, flags: int, fd: int) -> int:
    length, offset = ctypes.c_size_t(PAGE), ctypes.c_long(0)
    return _checked(libc.mmap(None, length, prot, flags, fd, offset), "mmap")


def _uffd_page(libc: ctypes.CDLL) -> int:
    """The address of a page that a fault waits for."""
    fd = _checked(libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC), "userfaultfd")
    api = bytearray(struct.pack("QQQ", UFFD_MAGIC, 0, 0))
    request = (ctypes.c_char * len(api)).from_buffer(api)
    _checked(libc.ioctl(fd, ctypes.c_ulong(UFFDIO_API), request), "UFFDIO_API")
    page = _map(libc, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1)
    register = bytearray(struct.pack("QQQQ", page, PAGE, MODE_MISSING, 0))
    request = (ctypes.c_char * len(register)).from_buffer(register)
    _checked(libc.ioctl(fd, ctypes.c_ulong(UFFDIO_REGISTER), request), "UFFDIO_REGISTER")
    return page


def _fuse_answer(op: int, node: int) -> tuple[int, bytes]:
    """Error and body of the answer to a request of the kernel; FUSE protocol 7.31."""

    def attributes(of: int) -> bytes:
        mode, size = (0o40755, 0) if of == ROOT_NODE else (0o100644, PAGE)
        return struct.pack("<6Q10I", of, size, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, PAGE, 0)

    if op == INIT:
        limits = (7, 31, 65536, 0, 8, 8, 65536, 1, 1, 0, 0, *[0] * 7)
        return 0, struct.pack("<IIIIHHIIHHI7I", *limits)
    if op == LOOKUP:
        return 0, struct.pack("<QQQQII", FILE_NODE, 1, 3600, 3600, 0, 0) + attributes(FILE_NODE)
    if op == GETATTR:
        return 0, struct.pack("<QII", 3600, 0, 0) + attributes(node)
    if op in (OPEN, OPENDIR):
        return 0, struct.pack("<QII", 1, 0, 0)
    return -ENOSYS, b""


def _serve_fuse(device: int) -> None:
    while True:
        data = os.read(device, FUSE_MESSAGE_BYTES)
        _, op, unique, node = struct.unpack_from("<IIQQ", data)
        if op in (READ, FORGET, BATCH_FORGET):  # a READ is never answered
            continue
        error, body = _fuse_answer(op, node)
        os.write(device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


def _fuse_page(libc: ctypes.CDLL) -> tuple[int, int]:
    """The address of a page of a file whose READ is never answered, and the server's fd."""
    uid, gid = os.getuid(), os.getgid()
    _checked(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare")
    maps = (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1"))
    for name, text in maps:
        Path(f"/proc/self/{name}").write_text(text, encoding="ascii")
    where = tempfile.mkdtemp(prefix="mc-fuse-")
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    _checked(libc.mount(b"mc", where.encode(), b"fuse", 0, options.encode()), "mount fuse")
    threading.Thread(target=_serve_fuse, args=(device,), daemon=True).start()
    file = os.open(f"{where}/page", os.O_RDONLY | os.O_CLOEXEC)
    page = _map(libc, PROT_READ, MAP_PRIVATE, file)
    os.close(file)  # at the end of this process, nobody would answer the FLUSH of a close
    return page, device


def main(argv: list[str]) -> int:
    """Entry point of the process: hold the lock of a file until it is killed."""
    how, fd = argv[1], int(argv[2])
    libc = _libc()
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        if platform.machine() != "x86_64":
            raise NotHere(
                f"the numbers of system calls are those of x86-64, not {platform.machine()}"
            )
        page, device = (_uffd_page(libc), -1) if how == "uffd" else _fuse_page(libc)
        writer = os.fork()
        if not writer:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if device >= 0:
                os.close(device)  # kept, the writer would not even end with its server
            if how == "uffd":  # a fork does not inherit what was registered
                page = _uffd_page(libc)
            libc.pwrite(fd, page, PAGE, 0)
            os._exit(0)
        time.sleep(BLOCKED_S)
        if os.waitpid(writer, os.WNOHANG)[0]:
            raise NotHere("the write returned")
    except (NotHere, OSError) as error:
        os.write(1, REFUSED + f"{how}: {error}\n".encode())
        return 1
    os.write(1, HELD)
    time.sleep(FOREVER_S)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
