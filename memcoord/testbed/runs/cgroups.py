"""The control group (cgroup v2) that the domains of a run live in, where one may be made.

Owns: where such a group may stand (``place``), and ``Slice``, the group of one run with a child for
each domain. The group lies below that of the launcher, or below one that holds it, as far up as
this user may write (systemd calls that delegated): a group with processes of its own hands on no
controllers. With the memory controller the memory of all domains together, and of each, is limited;
in any case the kernel kills a group as a whole, whoever forked in it.
Rules: a group is entered by the process itself (``join``), before it gives up its powers; a domain
has no right to write there. ``remove`` ends what is left. Called by the session of a run, the
confined process, ``clean`` and ``doctor``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

#: What a domain's process may have beside the domain's frames: Python, numpy, a trace, files read.
PROCESS_BYTES = 1 << 30
PROCESSES_MAX = 600
PREFIX = "memcoord-"
REMOVE_S = 5.0
POLL_S = 0.01
_WANTED = ("memory", "pids")


@dataclass(frozen=True)
class Place:
    """A group that may have children, and the controllers that those get."""

    path: Path
    controllers: tuple[str, ...]


def place(proc: Path = Path("/proc/self")) -> Place | None:
    """Where this process may make a group: most controllers, then nearest; None for nowhere."""
    found = [Place(path, _words(path / "cgroup.subtree_control")) for path in _candidates(proc)]
    return max(found, key=lambda one: len(set(one.controllers) & set(_WANTED)), default=None)


def lacking(where: Place | None) -> list[str]:
    """What groups at ``where`` cannot keep domains from, one phrase each."""
    if where is None:
        return ["taking memory beside their grant (no control group may be made here)"]
    if "memory" not in where.controllers:
        return [f"taking memory beside their grant ({where.path} hands on no memory controller)"]
    return []


class Slice:
    """The group of one run; a context manager that removes it."""

    def __init__(
        self, path: Path, controllers: tuple[str, ...], memory_bytes: int, domains: dict[str, int]
    ) -> None:
        """A group for each of ``domains``, with the bytes of its memory beside PROCESS_BYTES.

        ``memory_bytes``: what all of them may have, beside PROCESS_BYTES for each. OSError when the
        kernel refuses; nothing is left then.
        """
        self.path, self._controllers = path, controllers
        path.mkdir()
        try:
            self._limit("memory", "max", memory_bytes + len(domains) * PROCESS_BYTES)
            for name in set(controllers) & set(_WANTED):
                (path / "cgroup.subtree_control").write_text(f"+{name}")
            for name, size in domains.items():
                self.of(name).mkdir()
                self._limit("memory", "max", size + PROCESS_BYTES, name)
                self._limit("memory", "oom.group", 1, name)  # it ends as a whole or not at all
                self._limit("pids", "max", PROCESSES_MAX, name)
        except OSError:
            remove(path)
            raise

    def of(self, name: str) -> Path:
        """The group of the domain ``name``."""
        return self.path / name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        remove(self.path)

    def _limit(self, controller: str, what: str, value: int, name: str = "") -> None:
        if controller in self._controllers:
            (self.of(name) / f"{controller}.{what}").write_text(str(value))


def path_of(where: Place, run: str) -> Path:
    """A path for a group of ``run`` that nobody else has; to be noted before the group is made."""
    return where.path / f"{PREFIX}{run}-{secrets.token_hex(4)}"


def is_of(path: Path, run: str) -> bool:
    """Whether ``path`` is one that ``path_of`` gave for ``run``."""
    return path.name.startswith(f"{PREFIX}{run}-")


def join(path: Path) -> None:
    """Move this process into the group. OSError."""
    (path / "cgroup.procs").write_text("0")


def remove(path: Path) -> bool:
    """End all that lives in the group and remove it; False when some of it would not go."""
    kill = path / "cgroup.kill"
    with contextlib.suppress(OSError):
        if kill.exists():
            kill.write_text("1")
    until = time.monotonic() + REMOVE_S
    while True:
        try:
            for child in [*path.glob("*/"), path]:
                child.rmdir()
        except FileNotFoundError:
            return True
        except OSError:  # somebody is not dead yet
            if time.monotonic() > until:
                return False
            time.sleep(POLL_S)
        else:
            return True


def _candidates(proc: Path) -> list[Path]:
    """Groups that this process may write in, from its own upwards."""
    try:
        mounts = (proc / "mountinfo").read_text(encoding="utf-8", errors="replace")
        groups = (proc / "cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    own = next((line[3:] for line in groups.splitlines() if line.startswith("0::/")), "")
    for line in mounts.splitlines() if own else ():
        mount, _, kind = line.partition(" - ")
        if not kind.startswith("cgroup2 "):
            continue
        root, top = mount.split()[3:5]
        if own.startswith(root):
            path = Path(top) / own[len(root) :].lstrip("/")
            chain = [one for one in (path, *path.parents) if one.is_relative_to(top)]
            return list(itertools.takewhile(_is_writable, chain))
    return []


def _is_writable(path: Path) -> bool:
    return all(os.access(one, os.W_OK) for one in (path, path / "cgroup.procs"))


def _words(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="ascii").split())
    except OSError:
        return ()
