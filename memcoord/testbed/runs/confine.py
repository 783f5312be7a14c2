"""What a domain that the launcher starts may touch: its own folder, the system to read, no more.

``python -P -m memcoord.testbed.runs.confine RIGHTS MODULE ARGUMENTS...`` gives up what RIGHTS (a
``Rights`` as JSON) does not name, for itself and whatever it starts, and becomes MODULE.

Owns: the kernel's means, each used where the machine has it.
  - PR_SET_DUMPABLE 0: no other process of this user reads the memory or the files of this one
    (``hiding``).
  - no_new_privs, and no capabilities: root inside is root over nothing.
  - Landlock: no file but those named; no ptrace and, from ABI 6 on, no signal to the outside; from
    ABI 4 on no TCP. Landlock cannot stop a connect() to a socket's path: that is why the control
    plane wants a token, which a confined process cannot read.
  - A user and a PID namespace (``namespaces``) and a control group (``cgroups``): the domain ends
    as a whole, whatever it has forked.
``docs/security.md`` says what then holds. Called by the launcher, doctor.
"""

import contextlib
import ctypes
import os
import runpy
import stat
import struct
import sys
from pathlib import Path

import msgspec

from memcoord.testbed.runs import cgroups, namespaces
from memcoord.testbed.runs.hiding import ROOT, gain_nothing, hide

MODULE = "memcoord.testbed.runs.confine"

# The same numbers on every machine that has them.
_SYS_LANDLOCK_CREATE, _SYS_LANDLOCK_ADD, _SYS_LANDLOCK_RESTRICT = 444, 445, 446
_CREATE_RULESET_VERSION, _RULE_PATH_BENEATH = 1, 1
_EXECUTE, _WRITE, _READ, _READ_DIR = 1, 2, 4, 8
_REMOVE_DIR, _REMOVE, _MAKE_DIR, _MAKE_FILE, _TRUNCATE = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 14
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE
_READS = _EXECUTE | _READ | _READ_DIR
_WRITES = _WRITE | _READ | _READ_DIR | _REMOVE_DIR | _REMOVE | _MAKE_DIR | _MAKE_FILE | _TRUNCATE
_MAKE_SOCKET, _MAKE_FIFO, _MAKE_LINK, _REFER = 1 << 9, 1 << 10, 1 << 12, 1 << 13
_BUILDS = _WRITES | _EXECUTE | _MAKE_SOCKET | _MAKE_FIFO | _MAKE_LINK | _REFER
#: Bits of file rights that an ABI of Landlock knows; of TCP and scopes, all it has.
_FILE_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP_ABI, _TCP_BITS, _SCOPE_ABI, _SCOPE_BITS = 4, 3, 6, 3
_CAPABILITY_VERSION = 0x20080522

SYSTEM_READ = (
    *("/usr", "/lib", "/lib64", "/bin", "/etc", "/sys"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/sys/vm", "/dev/urandom", "/dev/random"),
)
SHM = "/dev/shm"
SYSTEM_WRITE = ("/dev/null", "/dev/zero", "/dev/full")
PACKAGES = ("backend", "frontend", "hypervisor", "memcoord", "policies", "tmem")


class Rights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a confined process may touch beside the system: paths of files and folders.

    ``secret``: a folder with what it must not read; nothing that holds this folder is readable.
    """

    secret: str
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    builds: tuple[str, ...] = ()  # folders in which it also makes links, sockets and programs
    cgroup: str = ""  # the control group to live in
    line: int = 0  # a descriptor, whose hang-up is its end
    shm_bytes: int = 0  # of a /dev/shm of its own


def landlock_abi() -> int:
    """The version of Landlock that this kernel offers; 0 for none."""
    return max(int(_libc().syscall(_SYS_LANDLOCK_CREATE, None, 0, _CREATE_RULESET_VERSION)), 0)


def unconfined(abi: int) -> str:
    """What this version of Landlock cannot keep confined domains from; empty: nothing."""
    if not abi:
        return "reading each other's and the user's files (the kernel has no Landlock)"
    if abi < _SCOPE_ABI:
        return f"sending signals to the user's processes (Landlock {abi}, {_SCOPE_ABI} can)"
    return ""


def lacking() -> list[str]:
    """What this machine cannot keep confined domains from, one phrase each."""
    group, given = cgroups.place(), namespaces.given()
    lacks = [phrase] if (phrase := unconfined(landlock_abi())) else []
    if group is None and namespaces.PID not in given:
        lacks.append("leaving processes when they are killed (no PID namespace or control group)")
    if namespaces.PIDS not in given and (group is None or "pids" not in group.controllers):
        lacks.append("starting processes without end (Linux 6.14 and a PID namespace can)")
    return lacks + cgroups.lacking(group)


def command(rights: Rights, module: str, *arguments: str) -> list[str]:
    """What follows ``python -P`` to run ``module`` confined."""
    return ["-m", MODULE, encoded(rights), module, *arguments]


def encoded(rights: Rights) -> str:
    """As JSON, for ``become``."""
    return msgspec.json.encode(rights).decode()


def confine(rights: Rights) -> None:
    """Give up all but ``rights``, for ever; what the kernel lacks is left out. Before threads."""
    libc = _libc()
    # A rule needs the path of its file, which must be opened before the files are out of reach.
    abi = landlock_abi()
    if rights.shm_bytes and namespaces.own_folder(SHM, rights.shm_bytes):
        rights = msgspec.structs.replace(rights, builds=(*rights.builds, SHM))
    rules = _ruleset(libc, abi, rights) if abi else -1
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    libc.capset(header, bytes(24))
    gain_nothing()
    if rules >= 0:
        _checked(libc.syscall(_SYS_LANDLOCK_RESTRICT, rules, 0))
        os.close(rules)
    hide()


def _ruleset(libc: ctypes.CDLL, abi: int, rights: Rights) -> int:
    handled = (1 << _FILE_BITS[min(abi, max(_FILE_BITS))]) - 1
    attributes = struct.pack("=Q", handled)
    if abi >= _TCP_ABI:
        attributes += struct.pack("=Q", _TCP_BITS)
    if abi >= _SCOPE_ABI:
        attributes += struct.pack("=Q", _SCOPE_BITS)
    rules = _checked(libc.syscall(_SYS_LANDLOCK_CREATE, attributes, len(attributes), 0))
    secret = Path(rights.secret).resolve()
    for path, access in (
        *((path, _READS) for path in (*_code(), *SYSTEM_READ, *rights.reads)),
        *((path, _WRITES) for path in (*rights.writes, *SYSTEM_WRITE)),
        *((path, _BUILDS) for path in rights.builds),
    ):
        holds_secret = access == _READS and secret.is_relative_to(Path(path).resolve())
        _allow(libc, rules, path, (_READ_DIR if holds_secret else access) & handled)
    return rules


def _code() -> list[str]:
    """Where Python finds itself, its packages and ours."""
    ours = [str(ROOT / name) for name in PACKAGES]
    return [sys.prefix, sys.base_prefix, *ours, *(path for path in sys.path if path)]


def _allow(libc: ctypes.CDLL, rules: int, path: str, access: int) -> None:
    """Add a rule for ``path`` and what lies beneath; one that is not there needs none."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(file).st_mode):
                access &= _OF_FILES
            rule = struct.pack("=Qi", access, file)
            if access:
                _checked(libc.syscall(_SYS_LANDLOCK_ADD, rules, _RULE_PATH_BENEATH, rule, 0))
        finally:
            os.close(file)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def become(rights: str) -> None:
    """Go on with ``rights`` (``Rights`` as JSON) and no more, in namespaces and a group of one's
    own where there are any. Before threads."""
    given = msgspec.json.decode(rights, type=Rights)
    if given.cgroup:
        cgroups.join(Path(given.cgroup))
    namespaces.isolate(lambda: confine(given), hide, given.line)


def main(argv: list[str]) -> None:
    """Entry point of the process."""
    become(argv[1])
    sys.argv = argv[2:]
    runpy.run_module(argv[2], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv)
