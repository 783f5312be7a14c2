"""``memcoord doctor``: facts about this machine, and the meaning of each for the results.

Owns: the list of checks. A check never raises and never changes the machine. ``level`` is ``ok``,
``warn`` (it works, but numbers differ from a better machine's) or ``bad`` (something will fail).
"""

import os
import platform
import resource
import shutil
import socket
import sysconfig
import tempfile
from pathlib import Path

import msgspec

from hypervisor.public import COMPILED
from hypervisor.public.errors import ConfigError
from hypervisor.public.messages import SO_PEERPIDFD
from memcoord.commands import wrapped
from memcoord.testbed.machines import accelerator, process
from memcoord.testbed.machines.image import build, compiling, debian
from memcoord.testbed.runs import cgroups, confine, facts, hiding, namespaces, userfaults
from tmem import compiled_cache

MIB = 1 << 20
CORES_WANTED = 4
NOFILE_WANTED = 1024
MEMORY_WANTED = 512 * MIB


class Check(msgspec.Struct, frozen=True):
    """One fact: its name, its value, how good that is, its meaning for the results."""

    what: str
    value: str
    level: str
    meaning: str


def diagnose() -> list[Check]:
    """Every check, the most important first."""
    machine = (_python, _kernel, _cores, _load, _memory, _cgroup)
    system = (_memfd, _shmem_thp, _anonymous_thp, _nofile, _memlock)
    programs = (_userfaultfd, _userfault_features, _programs)
    isolation = (_landlock, _namespaces, _domains_cgroup, _tracing, _peer_pidfd)
    installed = (_compiler, _headers, _compiled, _numba_cache)
    found = userfaults.probe()
    return [
        *(check() for check in (*machine, *system)),
        *(check(found) for check in programs),
        *(check() for check in (*isolation, *installed)),
        *_machines(),
    ]


def _machines() -> list[Check]:
    """What virtual machines need. Whoever runs none needs nothing of it."""
    try:
        busybox = len(build.busybox_of(build.Recipe()))
    except ConfigError:
        busybox = 0
    made = build.built()
    tools = (
        ("QEMU", process.version(), "qemu-system-x86", "guests run in it"),
        ("static busybox", "found" if busybox else None, debian.BUSYBOX, "guests boot with it"),
        ("static libc", compiling.static_libc(), "libc6-dev", "the guest's agent is made with it"),
        ("dpkg-deb", shutil.which("dpkg-deb"), "dpkg", "a kernel's package is unpacked with it"),
    )
    found = [
        Check(what, value or "none", "ok", meaning)
        if value
        else Check(what, "none", "warn", f"no virtual machines: apt-get install {package}")
        for what, value, package, meaning in tools
    ]
    if made is None:
        found.append(Check("guest image", "none", "ok", "made by `memcoord vm build`"))
        return found
    probed = accelerator.known(made.kernel, made.initrd)
    speed = "`memcoord vm probe` finds out" if probed is None else f"{probed.accelerator}"
    found.append(Check("guest image", made.facts.kernel, "ok", f"guests run on: {speed}"))
    return found


def _python() -> Check:
    return Check("python", platform.python_version(), "ok", "needs 3.11 or newer")


def _kernel() -> Check:
    release = platform.release()
    numbers = [int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit()]
    fine = numbers >= [5, 14]
    meaning = f"{'has' if fine else 'needs 5.14 or newer for'} MADV_POPULATE_WRITE"
    return Check("kernel", release, "ok" if fine else "bad", meaning)


def _cores() -> Check:
    count = facts.cores()
    few = count < CORES_WANTED
    meaning = (
        "the hypervisor and the domains share cores: spinning rarely pays, p99 is the scheduler's"
        if few
        else "both ends of a ring can spin on cores of their own"
    )
    return Check("cores", str(count), "warn" if few else "ok", meaning)


def _load() -> Check:
    load, count = facts.load(), facts.cores()
    busy = load > 0.5 * count
    meaning = "others compute here: repeat a bench when it is quiet" if busy else "quiet enough"
    return Check("load (1 min)", f"{load:.2f}", "warn" if busy else "ok", meaning)


def _memory() -> Check:
    size = facts.memory_bytes()
    small = size < MEMORY_WANTED
    meaning = "too little for the benches" if small else "the shipped scenarios fit"
    return Check("memory", f"{size // MIB} MiB", "bad" if small else "ok", meaning)


def _cgroup() -> Check:
    limit = facts.cgroup_limit_bytes()
    if not limit:
        return Check("cgroup memory limit", "none", "ok", "nothing else caps host memory")
    small = limit < MEMORY_WANTED
    meaning = "memfds count towards it; beyond it the kernel kills processes of the run"
    return Check("cgroup memory limit", f"{limit // MIB} MiB", "bad" if small else "ok", meaning)


def _memfd() -> Check:
    try:
        fd = os.memfd_create("memcoord-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        return Check("memfd", error.strerror or "refused", "bad", "domains cannot have memory")
    os.close(fd)
    return Check("memfd", "works", "ok", "domains get sealed shared memory")


def _shmem_thp() -> Check:
    setting = facts.shmem_thp()
    try:
        from frontend import _guest

        real = bool(_guest.lib.mc_shmem_thp())
    except (ImportError, AttributeError):
        real = False
    if real:
        meaning = "a 2 MiB grant is one page: populate and punch take tens of microseconds"
    else:
        meaning = (
            "a 2 MiB grant is 512 pages, slower to populate and 30 times slower to punch; as "
            "root: echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"
        )
    value = f"{setting}, {'2 MiB pages measured' if real else 'no 2 MiB pages'}"
    return Check("THP for shared memory", value, "ok" if real else "warn", meaning)


def _anonymous_thp() -> Check:
    setting = facts.thp()
    fast = setting == "always"
    meaning = (
        "fresh malloc of 2 MiB may get one huge page: the malloc rows are at their best"
        if fast
        else "fresh malloc of 2 MiB faults 512 times unless the program asks for huge pages"
    )
    return Check("THP for malloc", setting, "ok", meaning)


def _userfaultfd(found: userfaults.Userfaults) -> Check:
    modes = {"full": found.full, "user mode": found.user_mode, userfaults.DEVICE: found.device}
    given = [mode for mode, refused in modes.items() if not refused]
    if not found.full:
        meaning = "faults of a program can be served in its system calls, too"
    elif not found.device:
        meaning = f"faults of a program can be served, by way of {userfaults.DEVICE}"
    else:
        meaning = (
            f"a system call into a page that is out would fail; {userfaults.SYSCTL_LINE}, or "
            f"{userfaults.DEVICE_LINE}"
        )
    fine = not found.full or not found.device
    return Check("userfaultfd", ", ".join(given) or "none", "ok" if fine else "warn", meaning)


def _userfault_features(found: userfaults.Userfaults) -> Check:
    parts = {
        "MOVE": found.move,
        "EVENT_FORK": found.fork,
        "other events": found.events,
        "PAGEMAP_SCAN": found.pagemap_scan,
    }
    given = [part for part, refused in parts.items() if not refused]
    lacking = [f"{part}: {refused}" for part, refused in parts.items() if refused]
    meaning = "; ".join(lacking) or "pages are taken out and put back while the program runs"
    return Check("paging calls", ", ".join(given) or "none", "warn" if lacking else "ok", meaning)


def _programs(found: userfaults.Userfaults) -> Check:
    obstacle = found.obstacle()
    if obstacle:
        return Check("unmodified programs", "without limit", "warn", obstacle)
    return Check("unmodified programs", "paged", "ok", "a domain may run any dynamic program")


def _landlock() -> Check:
    abi = confine.landlock_abi()
    lacks = confine.unconfined(abi)
    if lacks:
        meaning = f"nothing keeps domains of `memcoord run` from {lacks}"
    else:
        meaning = "domains of `memcoord run` reach no file, process or token of yours"
    return Check("Landlock", f"ABI {abi}" if abi else "none", "warn" if lacks else "ok", meaning)


def _namespaces() -> Check:
    given = namespaces.given()
    if namespaces.PID not in given:
        meaning = "what a domain of `memcoord run` has forked may outlive it"
        return Check("namespaces", ", ".join(given) or "none", "warn", meaning)
    limited = namespaces.PIDS in given
    more = f", and has less than {namespaces.PIDS_MAX} processes" if limited else ""
    meaning = f"a domain of `memcoord run` ends as a whole and signals nobody else{more}"
    return Check("namespaces", ", ".join(given), "ok", meaning)


def _domains_cgroup() -> Check:
    group = cgroups.place()
    lacks = cgroups.lacking(group)
    if group is None:
        meaning = f"nothing keeps domains of `memcoord run` from {lacks[0]}"
        return Check("cgroup of domains", "none", "warn", meaning)
    found = ", ".join(group.controllers) or "no controllers"
    meaning = f"domains of `memcoord run` are killed with all they forked, below {group.path}"
    if lacks:
        meaning += "; their memory beside the grant is not limited"
    else:
        meaning += "; their memory is limited"
    return Check("cgroup of domains", found, "warn" if lacks else "ok", meaning)


def _tracing() -> Check:
    if hiding.is_debugging():
        meaning = "every process of yours may read the hypervisor and all domains"
        return Check("tracing", f"allowed ({hiding.DEBUG_VARIABLE})", "warn", meaning)
    meaning = f"no process of yours reads the hypervisor; {hiding.DEBUG_VARIABLE}=1 lets gdb in"
    return Check("tracing", "refused (PR_SET_DUMPABLE)", "ok", meaning)


def _peer_pidfd() -> Check:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
        except OSError:
            meaning = "a domain in another PID namespace ends with its connection only"
            return Check("pidfd of a peer", "none", "warn", meaning)
    return Check("pidfd of a peer", "works", "ok", "a domain ends with its process, forks or not")


def _limit(which: int) -> tuple[int, str]:
    soft = resource.getrlimit(which)[0]
    return (1 << 62, "unlimited") if soft == resource.RLIM_INFINITY else (soft, str(soft))


def _nofile() -> Check:
    soft, text = _limit(resource.RLIMIT_NOFILE)
    few = soft < NOFILE_WANTED
    meaning = "raise it with ulimit -n" if few else "enough for 64 domains"
    return Check("open files limit", text, "warn" if few else "ok", meaning)


def _memlock() -> Check:
    soft, text = _limit(resource.RLIMIT_MEMLOCK)
    value = text if soft >= 1 << 62 else f"{soft // 1024} KiB"
    return Check("locked memory limit", value, "ok", "nothing is locked; the kernel may swap us")


def _compiler() -> Check:
    command = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    found = shutil.which(command) or shutil.which("cc") or ""
    meaning = "can rebuild from source" if found else "only needed to install from source"
    return Check("C compiler", found or "none", "ok" if found else "warn", meaning)


def _headers() -> Check:
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    found = header.is_file()
    meaning = "can rebuild from source" if found else "to install from source: python3-dev"
    value = str(header) if found else "none"
    return Check("Python headers", value, "ok" if found else "warn", meaning)


def _compiled() -> Check:
    missing = []
    for name in COMPILED:
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if missing:
        return Check("compiled modules", "missing", "bad", f"install again: {', '.join(missing)}")
    return Check("compiled modules", "all there", "ok", "rings, allocator and loops are C")


def _numba_cache() -> Check:
    meaning = "every run compiles tmem again: set XDG_CACHE_HOME to a writable directory"
    try:
        where = compiled_cache.home()
    except RuntimeError:
        return Check("numba cache", "no home directory", "warn", meaning)
    while not where.exists() and where != where.parent:
        where = where.parent
    try:
        with tempfile.TemporaryFile(dir=where):
            pass
    except OSError:
        return Check("numba cache", f"{where} not writable", "warn", meaning)
    return Check("numba cache", str(where), "ok", "tmem's kernels are compiled once")


def lines(checks: list[Check], width: int = 80) -> list[str]:
    """The checks, each with what it means below it."""
    found = []
    for check in checks:
        found += wrapped(check.value, 30, width, f"{check.level:4}  {check.what}")
        found += wrapped(check.meaning, 6, width)
    return found


def to_json(checks: list[Check]) -> dict[str, object]:
    """The checks as one JSON object; ``worst`` is the worst level among them."""
    levels = [check.level for check in checks]
    worst = next((level for level in ("bad", "warn") if level in levels), "ok")
    return {"worst": worst, "checks": [msgspec.to_builtins(check) for check in checks]}
