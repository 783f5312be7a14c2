"""A machine's QEMU: started, watched, ended, and never left behind.

Owns: the process, the memfds that are the guest's memory, its two listening sockets, and what it
says. Use it with ``async with``; leaving ends QEMU in every case. QEMU
  - is killed by the kernel when its parent ends (``tethered``);
  - inherits the descriptors of ``Inherited`` and no other; its standard output is nobody's;
  - listens before it runs: the parent has bound the sockets, so nobody who connects is refused;
  - is read: what it and the guest's console say is kept up to a bound, and read on beyond, so that
    a guest that prints without end fills no disk and waits for nobody.
Called by the program that is a domain in the hypervisor's eyes, and by what builds and probes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Self

from hypervisor.public.errors import ConfigError, MemcoordError
from memcoord.testbed.machines import tethered
from memcoord.testbed.machines.command_line import (
    PROGRAM,
    Inherited,
    command_line,
    memory_parts,
)
from memcoord.testbed.machines.spec import MachineSpec

#: How long a boot may take on a busy machine that emulates.
BOOT_S = 120.0
#: How long QEMU may take to end after SIGTERM, and after SIGKILL.
TERM_S, KILL_S = 5.0, 10.0
#: Of the console and of QEMU's own words: the first so many bytes are kept in a file, the last so
#: many in memory.
FILE_BYTES_MAX, TAIL_BYTES_MAX = 1 << 20, 64 << 10
READ_BYTES = 16 << 10
VERSION_S = 10.0
SOCKET_PATH_BYTES_MAX = 107
QMP_SOCKET, AGENT_SOCKET = "qmp.sock", "agent.sock"
CONSOLE_FILE, WORDS_FILE = "console.log", "qemu.log"
#: What our image prints when all of it runs.
READY = b"MEMCOORD-READY"
PANIC = b"Kernel panic - not syncing"
#: Ranges of a part that are listed; a part of more pieces is counted as if it were touching.
RANGES_MAX = 1 << 16


class Trouble(StrEnum):
    """What became of a guest that does not run."""

    NOT_STARTED = "could not be started"
    ENDED = "ended"
    PANICKED = "panicked"
    LATE = "did not boot in time"


class GuestFailed(MemcoordError):
    """A guest does not run; ``said`` is the last line of QEMU or of the guest's console."""

    def __init__(self, name: str, trouble: Trouble, said: str) -> None:
        self.name, self.trouble, self.said = name, trouble, said
        super().__init__(f"{name} {trouble}" + (f": {said}" if said else ""))


def version() -> str | None:
    """QEMU's version as it tells it, or None where there is no QEMU that runs."""
    try:
        words = [PROGRAM, "--version"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=VERSION_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"version (\S+)", done.stdout)
    return found[1] if found else None


def last_line(said: bytes) -> str:
    """The last line that is not blank, without what a terminal would not show; or none."""
    lines = said.decode(errors="replace").splitlines()
    shown = ("".join(filter(str.isprintable, line)).strip() for line in reversed(lines))
    return next(filter(None, shown), "")


class Kept:
    """What somebody untrusted writes to a descriptor: its start in a file, its end in memory."""

    def __init__(self, fd: int, file: Path) -> None:
        os.set_blocking(fd, False)
        self._fd, self._file = fd, file.open("wb", buffering=0)
        self._room = FILE_BYTES_MAX
        self.tail = b""
        self.grown = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # a socket whose other end was killed
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
        self.tail = (self.tail + data)[-TAIL_BYTES_MAX:]
        if self._room > 0:
            with contextlib.suppress(OSError):  # a full disk costs the log
                self._file.write(data[: self._room])
            self._room -= len(data)
        self.grown.set()

    def last_line(self) -> str:
        """The last of its lines."""
        return last_line(self.tail)

    def close(self) -> None:
        """Read no more. The descriptor stays its owner's."""
        for _ in range(TAIL_BYTES_MAX // READ_BYTES):  # what it wrote last
            self._read()
        asyncio.get_running_loop().remove_reader(self._fd)
        self._file.close()


class Machine:
    """One virtual machine of this process. ``folder`` is its own; socket paths must fit in it."""

    def __init__(self, spec: MachineSpec, folder: Path, name: str) -> None:
        self.spec, self.folder, self.name = spec, folder, name
        self.qmp_path, self.agent_path = folder / QMP_SOCKET, folder / AGENT_SOCKET
        self.memory: dict[str, int] = {}  # part -> memfd
        self.ended = asyncio.Event()
        self._cleanup = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        """Start QEMU; GuestFailed, ConfigError for a folder whose path is too long."""
        try:
            self._start()
        except OSError as error:
            await self._stop()
            where = error.filename or ""
            why = f"{where} {error.strerror or error}".strip()
            raise GuestFailed(self.name, Trouble.NOT_STARTED, why) from None
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    @property
    def pid(self) -> int:
        """QEMU's process id, meaningful until it has ended."""
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status once ``ended`` is set, below 0 for a signal."""
        return None if self._process is None else self._process.returncode

    async def booted(self, limit_s: float = BOOT_S, ready: bytes = READY) -> None:
        """Wait until the console shows ``ready``; GuestFailed says what came instead."""
        ended = asyncio.ensure_future(self.ended.wait())
        try:
            async with asyncio.timeout(limit_s):
                while ready not in self.console.tail:
                    if PANIC in self.console.tail:
                        raise self._failed(Trouble.PANICKED)
                    if self.ended.is_set():
                        raise self._failed(Trouble.ENDED)
                    self.console.grown.clear()
                    grown = asyncio.ensure_future(self.console.grown.wait())
                    try:
                        await asyncio.wait((grown, ended), return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        grown.cancel()
        except TimeoutError:
            raise self._failed(Trouble.LATE) from None
        finally:
            ended.cancel()

    def resident_bytes(self, part: str) -> int:
        """Host memory behind a part of the guest's memory, exactly."""
        return os.fstat(self.memory[part]).st_blocks * 512

    def resident_ranges(self, part: str) -> Iterator[tuple[int, int]]:
        """Where host memory is behind a part: from, to, in bytes, rising; RANGES_MAX at most."""
        fd, at = self.memory[part], 0
        for _ in range(RANGES_MAX):
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
                at = os.lseek(fd, start, os.SEEK_HOLE)
            except OSError:  # ENXIO: nothing behind it
                return
            yield start, at

    def signal(self, number: signal.Signals) -> None:
        """Signal QEMU, unless it has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def _start(self) -> None:
        for part, size_bytes in memory_parts(self.spec).items():
            self.memory[part] = self._memfd(part, size_bytes)
        with contextlib.ExitStack() as theirs:  # what only QEMU is to have
            ours, console = socket.socketpair()
            self._cleanup.callback(ours.close)
            theirs.callback(console.close)
            said, words = os.pipe()
            self._cleanup.callback(os.close, said)
            theirs.callback(os.close, words)
            self.words = self._kept(said, WORDS_FILE)
            self.console = self._kept(ours.fileno(), CONSOLE_FILE)
            qmp = theirs.enter_context(self._listen(self.qmp_path))
            agent = theirs.enter_context(self._listen(self.agent_path))
            given = Inherited(self.memory, qmp.fileno(), agent.fileno(), console.fileno())
            self._process = self._popen(given, words)
        pidfd = os.pidfd_open(self._process.pid)
        self._cleanup.callback(os.close, pidfd)
        loop = asyncio.get_running_loop()
        loop.add_reader(pidfd, self._note_end, pidfd)
        self._cleanup.callback(loop.remove_reader, pidfd)

    def _popen(self, given: Inherited, words: int) -> subprocess.Popen[bytes]:
        tether = (sys.executable, "-I", "-S", tethered.__file__, str(os.getpid()))
        return subprocess.Popen(
            [*tether, *command_line(self.spec, self.name, given)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=words,
            process_group=0,
            pass_fds=(*given.memory.values(), given.qmp, given.agent, given.console),
            cwd="/",
        )

    def _kept(self, fd: int, name: str) -> Kept:
        kept = Kept(fd, self.folder / name)
        self._cleanup.callback(kept.close)
        return kept

    def _memfd(self, part: str, size_bytes: int) -> int:
        fd = os.memfd_create(f"memcoord-{part}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._cleanup.callback(os.close, fd)
        os.ftruncate(fd, size_bytes)
        sealed = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, sealed)
        return fd

    def _listen(self, path: Path) -> socket.socket:
        if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
            raise ConfigError("run directory", f"{path} is too long for the name of a socket")
        listening = socket.socket(socket.AF_UNIX)
        try:
            path.unlink(missing_ok=True)
            listening.bind(str(path))
            self._cleanup.callback(path.unlink, missing_ok=True)
            path.chmod(0o600)
            listening.listen(1)
        except BaseException:
            listening.close()
            raise
        return listening

    def _note_end(self, pidfd: int) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            asyncio.get_running_loop().remove_reader(pidfd)
            self.ended.set()

    def _failed(self, trouble: Trouble) -> GuestFailed:
        self.words._read()  # what it wrote last
        lines = (self.words.last_line(), self.console.last_line())
        return GuestFailed(self.name, trouble, next(filter(None, lines), ""))

    async def _stop(self) -> None:
        """End QEMU and give up all that it had. Runs to its end also when it is cancelled."""
        try:
            if self._process is not None:
                for number, limit_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
                    self._process.send_signal(number)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.ended.wait(), limit_s)
                        break
        finally:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(KILL_S)
            self._cleanup.close()
