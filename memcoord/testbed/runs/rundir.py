"""The directory a run leaves behind: its manifest, its events, its files.

Owns: names, layout and manifest of run directories, and the only writer of ``manifest.json`` and
``events.jsonl``. A run is created with ``create``, records every process and file it makes, and
ends with ``finish``. ``memcoord ls`` and ``clean`` act on the processes and files a manifest names,
and on no other.

    <base>/<utc time>-<scenario>-<id>/     mode 0700
        manifest.json   Manifest below, replaced as a whole, so a reader never sees half of one
        events.jsonl    one JSON object per line: time_ns, source, event, and what belongs to it
        run.lock        locked (flock) as long as the launcher lives, in any PID namespace
        *.sock *.ipc    endpoints, gone when the run has ended
"""

import itertools
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.public.documents import UNREADABLE
from hypervisor.public.errors import ConfigError, MemcoordError
from hypervisor.public.messages import SOCKET_PATH_BYTES_MAX, SOCKETS
from hypervisor.public.run_files import EVENTS as EVENTS
from hypervisor.run_dir import drop_lock, is_locked, take_lock
from memcoord.testbed.runs import facts
from memcoord.testbed.runs.identity import ProcessId, alive, identify

SCHEMA = 1
MANIFEST = "manifest.json"
LOCK = "run.lock"
LONGEST_SOCKET = max(SOCKETS, key=len)
MANIFEST_BYTES_MAX = 1 << 20
RUNS_MAX = 10_000
LAUNCHER = "launcher"
#: Beside the directory of runs: links to runs that lie elsewhere, by time and scenario.
ELSEWHERE = "elsewhere"
#: A new run looks at so many of them: its start may not become slower with every run there was.
LINKS_LOOKED_AT_MAX = 32
SLUG_MAX = 12

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


class RunDirError(MemcoordError):
    """A run directory cannot be written or read; the text says which and why."""

    def __init__(self, path: Path, why: str) -> None:
        self.path = path
        super().__init__(f"run directory {path}: {why}")


class Manifest(msgspec.Struct):
    """What ``manifest.json`` holds. ``state`` is running, finished, failed or interrupted."""

    schema: int  # of this file
    run: str  # its name
    scenario: str  # its name
    state: str  # running, finished, failed or interrupted
    started_utc: str  # wall clock
    argv: list[str]  # the command
    seed: int | None = None  # of the first round
    ended_utc: str = ""  # "": it has not ended
    versions: dict[str, str] = {}  # of Python, the packages and this one
    machine: dict[str, Any] = {}  # CPUs, memory, kernel
    processes: list[ProcessId] = []  # that the run started, for ``clean``
    files: list[str] = []  # sockets and scratch files, relative to the run directory
    cgroups: list[str] = []  # paths of control groups that the run made
    config: dict[str, Any] = {}  # what was asked for

    def running(self) -> list[ProcessId]:
        """The run's processes that still run. The launcher of a run that has ended is none of them:
        a program that used ``memcoord.Hypervisor`` goes on.
        """
        ended = self.state != "running"
        return [
            one for one in self.processes if alive(one) and not (ended and one.role == LAUNCHER)
        ]


class RunDir:
    """One run's directory, open for writing. Used from one thread of the run's own process."""

    def __init__(
        self, path: Path, manifest: Manifest, clock_ns: Callable[[], int], lock: int
    ) -> None:
        self.path = path
        self._lock = lock
        self.manifest = manifest
        self._clock_ns = clock_ns
        self._events = _open_events(path)

    def record_process(self, role: str, pid: int) -> None:
        """Name a process this run started, before it can outlive the run."""
        self.manifest.processes.append(identify(role, pid))
        self._save()

    def describe(self) -> None:
        """Say in the manifest on what machine and with what versions this runs; takes a while."""
        self.manifest.versions, self.manifest.machine = facts.versions(), facts.describe()
        self._save()

    def record_files(self, names: Iterable[str]) -> None:
        """Name files of this directory that ``clean`` may remove when the run is dead."""
        self.manifest.files.extend(name for name in names if name not in self.manifest.files)
        self._save()

    def record_cgroup(self, path: Path) -> None:
        """Name a control group that this run makes, before it can outlive the run."""
        self.manifest.cgroups.append(str(path))
        self._save()

    def event(self, source: str, event: str, **fields: Any) -> None:
        """Append one line to ``events.jsonl``."""
        line = {"time_ns": self._clock_ns(), "source": source, "event": event, **fields}
        try:
            # One write with O_APPEND: lines of two processes never mix.
            os.write(self._events, msgspec.json.encode(line) + b"\n")
        except OSError as error:
            raise RunDirError(self.path, error.strerror or str(error)) from None

    def write(self, name: str, data: bytes) -> Path:
        """Put a whole file into the directory, or leave the old one as it was."""
        return _replace(self.path, name, data)

    def finish(self, state: str) -> None:
        """Note how the run ended and close the event log; nothing may be written afterwards."""
        self.manifest.state = state
        self.manifest.ended_utc = _utc()
        try:
            self._save()
        finally:
            os.close(self._events)
            drop_lock(self.path / LOCK, self._lock)

    def _save(self) -> None:
        data = msgspec.json.format(msgspec.json.encode(self.manifest), indent=2)
        _replace(self.path, MANIFEST, data + b"\n")


def default_base() -> Path:
    """``$XDG_STATE_HOME/memcoord/runs``, or the same below ``~/.local/state``."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        try:
            state = Path.home() / ".local" / "state"
        except RuntimeError:
            raise ConfigError("--run-dir", "there is no home directory; name one") from None
    return state / "memcoord" / "runs"


def create(
    scenario: str,
    *,
    path: str | Path | None = None,
    base: Path | None = None,
    seed: int | None = None,
    config: dict[str, Any] | None = None,
    clock_ns: Callable[[], int] = time.time_ns,
    again: bool = False,
    described: bool = True,
) -> RunDir:
    """A fresh run directory, at ``path`` or below ``base``; its first process is the caller.

    ``again``: also the directory of an earlier run of ``scenario`` that lives no more.
    ``described``: at once, else the caller has ``describe`` called when there is time.
    ConfigError when the path is too long for a socket or in use, RunDirError when not writable.
    """
    name = f"{_utc('%y%m%d-%H%M%S')}-{_UNSAFE.sub('-', scenario)[:SLUG_MAX]}-{secrets.token_hex(2)}"
    where = Path(path).absolute() if path else (base or default_base()) / name
    check_socket_path(where / LONGEST_SOCKET)
    if any("\ud800" <= letter <= "\udfff" for letter in str(where)):  # manifests are UTF-8
        raise ConfigError("--run-dir", f"{str(where)!a} is not UTF-8; name another directory")
    try:
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = take_lock(where / LOCK)
    except BlockingIOError as error:
        raise ConfigError("--run-dir", str(error.strerror)) from None
    except OSError as error:
        raise RunDirError(where, error.strerror or str(error)) from None
    try:
        if (where / MANIFEST).exists() and not (again and _is_over(where, scenario)):
            raise ConfigError("--run-dir", f"{where} holds a run already; name another directory")
        where.chmod(0o700)  # mkdir leaves an existing directory as it was
        run = RunDir(where, _begun(where, scenario, seed, config), clock_ns, lock)
    except BaseException:
        drop_lock(where / LOCK, lock)
        raise
    run.record_process(LAUNCHER, os.getpid())
    if path:
        _remember(name, where, base)
    if described:
        run.describe()
    return run


def _is_over(where: Path, scenario: str) -> bool:
    manifest = read_manifest(where)
    return manifest.scenario == scenario and not manifest.running()


def _begun(where: Path, scenario: str, seed: int | None, config: dict[str, Any] | None) -> Manifest:
    return Manifest(
        schema=SCHEMA,
        run=where.name,
        scenario=scenario,
        state="running",
        started_utc=_utc(),
        argv=[os.fsencode(word).decode(errors="replace") for word in sys.argv],
        seed=seed,
        config=config or {},
    )


def check_socket_path(path: Path) -> None:
    """ConfigError when ``path`` is longer than an AF_UNIX address can be."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES_MAX:
        what = f"{path} has {length} bytes, a socket's path at most {SOCKET_PATH_BYTES_MAX}"
        raise ConfigError("--run-dir", f"{what}; name a shorter directory")


def read_manifest(path: Path) -> Manifest:
    """The manifest of a run directory; RunDirError when there is none that can be trusted."""
    try:
        with (path / MANIFEST).open("rb") as file:
            data = file.read(MANIFEST_BYTES_MAX + 1)
    except OSError as error:
        raise RunDirError(path, error.strerror or str(error)) from None
    if len(data) > MANIFEST_BYTES_MAX:
        raise RunDirError(path, f"{MANIFEST} is larger than {MANIFEST_BYTES_MAX} bytes")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except UNREADABLE as error:
        raise RunDirError(path, f"{MANIFEST}: {error}") from None
    if manifest.schema != SCHEMA:
        raise RunDirError(path, f"{MANIFEST} has schema {manifest.schema}, this is {SCHEMA}")
    return manifest


def runs(base: Path | None = None) -> list[Path]:
    """Run directories below ``base``, newest first, at most RUNS_MAX."""
    home = base or default_base()
    try:
        found = [entry for entry in home.iterdir() if (entry / MANIFEST).is_file()]
    except OSError:
        return []
    return sorted(found, key=lambda entry: entry.name, reverse=True)[:RUNS_MAX]


def held(path: Path) -> bool:
    """Whether the launcher of the run in ``path`` lives, whatever PID namespace it is in."""
    return is_locked(path / LOCK)


def live(path: Path, manifest: Manifest) -> bool:
    """True while any process of the run in ``path`` still runs."""
    return held(path) or bool(manifest.running())


def newest_live(base: Path | None = None) -> Path:
    """The newest run that is still running; ConfigError when there is none."""
    for path in every_run(base):
        with suppress(RunDirError):
            if live(path, read_manifest(path)):
                return path
    raise ConfigError("--run-dir", f"no run is live below {base or default_base()}")


def find_watched(run: str | None) -> Path:
    """As ``find``, for who reads its feed: ConfigError too where a socket's path is too long."""
    place = find(run)
    check_socket_path(place / LONGEST_SOCKET)
    return place


def find(run: str | None, base: Path | None = None) -> Path:
    """The run that is called so, lies there, or, if none is named, lives or ended last.

    ConfigError when there is none.
    """
    if run is None:
        with suppress(ConfigError):
            return newest_live(base)
        for path in every_run(base):
            return path
        raise ConfigError("RUN", f"no run is below {base or default_base()}")
    given = Path(run)
    if given.is_dir():
        return given.absolute()
    for path in every_run(base):
        if path.name == run:
            return path
    raise ConfigError("RUN", f"{run!r} is no directory, and no run is called so")


def every_run(base: Path | None = None) -> list[Path]:
    """Those of ``runs``, and those that were given a directory elsewhere; newest first."""
    home = base or default_base()
    found = {path: path.name for path in runs(home)}
    with suppress(OSError):
        for link in (home.parent / ELSEWHERE).iterdir():
            path = Path(os.readlink(link))
            if (path / MANIFEST).is_file():
                found.setdefault(path, link.name)
    return sorted(found, key=lambda path: found[path], reverse=True)[:RUNS_MAX]


def _remember(name: str, where: Path, base: Path | None) -> None:
    """Have a run that lies elsewhere be found, and forget those that are gone; if it can be."""
    with suppress(OSError, ConfigError):
        home = base or default_base()
        if where.parent == home:
            return
        links = home.parent / ELSEWHERE
        links.mkdir(mode=0o700, parents=True, exist_ok=True)
        for link in [*itertools.islice(links.iterdir(), LINKS_LOOKED_AT_MAX)]:
            if not (Path(os.readlink(link)) / MANIFEST).is_file():
                link.unlink()
        (links / name).symlink_to(where)


def _open_events(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path / EVENTS, flags, 0o600)
    except OSError as error:
        raise RunDirError(path, error.strerror or str(error)) from None


def _replace(directory: Path, name: str, data: bytes) -> Path:
    target, draft = directory / name, directory / f".{name}.tmp"
    try:
        draft.write_bytes(data)
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise RunDirError(directory, f"{name}: {error.strerror or error}") from None
    return target


def _utc(form: str = "%Y-%m-%dT%H:%M:%SZ") -> str:
    return time.strftime(form, time.gmtime())
