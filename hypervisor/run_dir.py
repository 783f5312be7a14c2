"""A hypervisor's hold of its run directory: one hypervisor at a time, and the operator's token.

Owns: locks by flock, ``LOCK_FILE``, which the hypervisor holds as long as it lives, and the making
of ``TOKEN_FILE``. The kernel drops a lock when the process ends, however it ends, so that a new
hypervisor may follow in the same directory; processes of every PID namespace see the lock.
Called by the composition root before it touches anything else, by the control plane, and by those
who keep run directories.
"""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from hypervisor.public.errors import ConfigError
from hypervisor.public.run_files import SOCKETS, TOKEN_BYTES, TOKEN_FILE

LOCK_FILE = "hypervisor.lock"
PID_CHARACTERS_MAX = 32
HOLDER = "another hypervisor"
#: A lock that is merely being looked at (``is_locked``) is free again at the next try.
LOCK_TRIES = 5
LOCK_NAP_S = 0.02
#: What connect() says of a socket file that no process listens at, and of one that is gone.
STALE = (errno.ECONNREFUSED, errno.ENOENT)


def take_lock(path: Path) -> int:
    """A file descriptor that holds the lock ``path``; ``drop_lock`` gives it back.

    BlockingIOError when another process holds the lock, OSError when there can be no such file.
    """
    for _ in range(LOCK_TRIES):
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino == os.fstat(lock).st_ino:
                os.truncate(lock, 0)
                os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
                return lock
        os.close(lock)  # another's, or unlinked since it was opened
        time.sleep(LOCK_NAP_S)
    raise BlockingIOError(errno.EWOULDBLOCK, f"{path.parent} is served by {_holder(path)}")


def drop_lock(path: Path, lock: int) -> None:
    """Let go of what ``take_lock(path)`` gave."""
    path.unlink(missing_ok=True)
    os.close(lock)


def is_locked(path: Path) -> bool:
    """Whether a process, of any PID namespace, holds the lock ``path``."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@contextlib.contextmanager
def claim(run_dir: Path) -> Iterator[int]:
    """Hold ``run_dir`` within the block; sockets that nobody answers are removed.

    Yields the lock's file descriptor: who inherits it holds the lock as well.

    ConfigError, with nothing touched, when another hypervisor serves the directory, or when it
    cannot be written.
    """
    path = run_dir / LOCK_FILE
    try:
        lock = take_lock(path)
    except OSError as error:
        raise ConfigError("run-dir", error.strerror or str(error)) from None
    try:
        for name in SOCKETS:
            if _is_answered(run_dir / name):
                raise ConfigError("run-dir", f"{run_dir / name} is answered by another process")
        for name in SOCKETS:
            (run_dir / name).unlink(missing_ok=True)
        yield lock
    finally:
        drop_lock(path, lock)


def make_token(run_dir: Path, token: str = "") -> str:
    """The token for the operator of ``run_dir``, ``token`` or a new one, in TOKEN_FILE; OSError."""
    path = run_dir / TOKEN_FILE
    with contextlib.suppress(OSError):
        if token and path.read_text(encoding="ascii") == token:
            return token
    path.unlink(missing_ok=True)
    token = token or os.urandom(TOKEN_BYTES).hex()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, token.encode())
    finally:
        os.close(file)
    return token


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        text = path.read_text(encoding="ascii")[:PID_CHARACTERS_MAX].strip()
        return f"{HOLDER} (process {text})" if text else HOLDER
    return HOLDER


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fsencode(path))
        except OSError as error:
            return error.errno not in STALE  # of another type, or busy: somebody listens
    return True
