"""The directory in which a program finds the command of its domain.

Owns: its name, what is in it, and its end when a command was killed: the next command removes it.
"""

from __future__ import annotations

import glob
import os
import shutil
import socket
import tempfile
import time

#: Of the directory; in it: the command's socket, and a link to the library that programs load.
PREFIX, SOCKET, PRELOAD = "memcoord-", "s", "pager.so"
#: Of one in which a sandbox may also write what it likes.
BOX_PREFIX = "memcoord-box-"
#: Programs of a killed command that start late must find the library, and that nobody listens.
ABANDONED_S = 60.0


def fresh(prefix: str = PREFIX, parent: str = "") -> str:
    """A new directory for a domain's socket; those of commands that were killed are removed."""
    parent = parent or tempfile.gettempdir()
    for path in glob.glob(os.path.join(parent, f"{PREFIX}*")):
        if _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)
    return tempfile.mkdtemp(prefix=prefix, dir=parent)


def _is_abandoned(path: str) -> bool:
    """Whether nobody listens at the socket in ``path``, a directory of this user's."""
    try:
        is_box = os.path.basename(path).startswith(BOX_PREFIX)
        known = is_box or set(os.listdir(path)) <= {SOCKET, PRELOAD}
        now_s, made = time.time(), os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    if not known or made.st_uid != os.getuid() or now_s - made.st_mtime < ABANDONED_S:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as knock:
        knock.setblocking(False)
        try:
            knock.connect(os.path.join(path, SOCKET))
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:
            return False
    return False
