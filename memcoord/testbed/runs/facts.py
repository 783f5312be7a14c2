"""Facts about the machine that every manifest, bench and report must carry.

Owns: reading /proc and /sys. Every function returns a plain value and never raises: a fact that
cannot be read is "unknown" or 0, because a measurement without it is still a measurement.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"
GIT_TIMEOUT_S = 5
_VERSIONED = ("memcoord", "numba", "numpy", "pyzmq", "msgpack", "msgspec", "cffi")


def read_text(path: str) -> str:
    """The stripped content of a small file, or "unknown"."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return UNKNOWN


def chosen(setting: str) -> str:
    """The bracketed word of a sysfs choice, ``"a [b] c"`` gives ``"b"``."""
    _, bracket, rest = setting.partition("[")
    return rest.partition("]")[0] if bracket else setting


def cores() -> int:
    """CPUs this process may run on."""
    return len(os.sched_getaffinity(0))


def cpu_model() -> str:
    """The first CPU's name."""
    for line in read_text("/proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine() or UNKNOWN


def thp() -> str:
    """When anonymous memory gets 2 MiB pages: always, madvise or never."""
    return chosen(read_text("/sys/kernel/mm/transparent_hugepage/enabled"))


def shmem_thp() -> str:
    """When shared memory gets 2 MiB pages: always, within_size, advise, never, deny or force."""
    return chosen(read_text("/sys/kernel/mm/transparent_hugepage/shmem_enabled"))


def load() -> float:
    """The 1-minute load average."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return 0.0


def memory_bytes() -> int:
    """Physical memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cgroup_limit_bytes() -> int:
    """The smallest memory limit of this process's control group and its parents; 0: none."""
    limits = []
    for line in read_text("/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            base, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            base, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        group = base / path.lstrip("/")
        while group.is_relative_to(base):
            value = read_text(str(group / name))
            if value.isdigit() and int(value) < memory_bytes():
                limits.append(int(value))
            group = group.parent
    return min(limits, default=0)


def usable_bytes() -> int:
    """Physical memory, or the control group's limit when that is less."""
    return min(memory_bytes(), cgroup_limit_bytes() or memory_bytes())


def git_commit(directory: Path | None = None) -> str:
    """The commit of the checkout this code runs from, "-dirty" when changed; "" outside one."""
    home = directory or Path(__file__).resolve().parents[3]
    if not (home / ".git").exists():
        return ""
    command = ["git", "-C", str(home), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Python and the distributions that a result depends on."""
    from importlib import metadata

    found = {"python": platform.python_version(), "implementation": sys.implementation.name}
    for name in _VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = UNKNOWN
    return found


def describe() -> dict[str, Any]:
    """Everything above that a result depends on, as one JSON object."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "kernel": platform.release(),
        "memory_bytes": memory_bytes(),
        "cgroup_limit_bytes": cgroup_limit_bytes(),
        "thp": thp(),
        "shmem_thp": shmem_thp(),
        "load_1m": load(),
        "commit": git_commit(),
    }
