"""Inject a fault into the private state of a host and see which check reports it.

Owns: ``Fault`` (one case), ``CheckLab`` (the host a case works on), ``outcome_of`` (runs a case in
a forked child), ``assert_seen`` (what a test asks of the outcome), ``checks_in`` (every check of a
C file, by reading it).
Rules: a case spoils one word through cffi, then calls something. An ``MC_CHECK`` must end the child
by SIGABRT. An ``MC_CHECK_DOMAIN`` must break domain ``VM1`` and nothing else: the child then makes
sure that ``VM2`` is served, closes ``VM1`` and validates the ledger. No thread serves the host
unless a case asks for one (``serve``, ``work``), so that a case is deterministic.
A test module has a table ``FAULTS``; test_checks_complete.py demands that the tables together make
every check of backend/abi fire.
"""

from __future__ import annotations

import faulthandler
import os
import re
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend_steps import AREA
from guest_double import GuestDouble

from backend._service import ffi, lib
from backend.options import mechanism_of
from frontend._guest import ffi as abi_ffi
from frontend._guest import lib as abi
from hypervisor.public.backend import DomainHandles

VM1, VM2 = 0, 1
#: A child that takes longer is killed by SIGALRM, which no case expects.
CHILD_S = 60
POLL_S = 0.0005
SLACK_AREAS = 2
OPEN, CLOSE = re.compile(r"\bMC_CHECK(?:_DOMAIN|_IN|_LOCKED)?\("), re.compile(r"[()]")
REPORT = re.compile(r"^memcoord: check failed: (\S+):(\d+): (\w+): (.*)$", re.MULTILINE)


class CheckLab:
    """A host of ``areas`` areas without threads, on which domains are opened by number."""

    def __init__(self, areas: int = 32) -> None:
        out = ffi.new("struct mc_host **")
        assert lib.mc_host_open(out, areas, SLACK_AREAS, 0, -1) == 0
        self.host = out[0]
        self.host.error_budget = 64
        self._serving = False
        self._kept: list[Any] = []  # C memory and callbacks that the host points to

    def open(
        self,
        domid: int = VM1,
        mechanism: str = "direct",
        *,
        boot: int = 2,
        target: int = 8,
        maxmem: int = 8,
        options: dict[int, int] | None = None,
    ) -> Any:
        """Open a domain, sizes in areas, options by index; its ``struct mc_domain``."""
        found = mechanism_of(mechanism)
        spec = ffi.new("struct mc_domain_spec *")
        spec.areas, spec.boot_areas, spec.target_frames = maxmem, boot, target * AREA
        spec.mechanism, spec.options = found.id, [option.value for option in found.options]
        for index, value in (options or {}).items():
            spec.options[index] = value
        status = lib.mc_domain_open(self.host, domid, spec)
        assert status == 0, f"open: status {status}"
        return self.domain(domid)

    def domain(self, domid: int = VM1) -> Any:
        """The private state of a domain, to be spoilt."""
        return self.host.domains[domid]

    def pointer(self, domid: int = VM1) -> Any:
        """The same as ``struct mc_domain *``, to be passed to C."""
        return ffi.addressof(self.host.domains[domid])

    def guest(self, domid: int = VM1) -> GuestDouble:
        """The guest half of a domain, without a driver."""
        domain = self.domain(domid)
        return GuestDouble(
            DomainHandles(
                ram_fd=domain.ram_fd,
                meta_fd=domain.meta_fd,
                bell_fd=domain.bell_fd,
                ram_bytes=domain.areas * abi.MC_AREA_BYTES,
                meta_bytes=domain.meta_bytes,
                spin_ns=0,
            )
        )

    def set(self, area: int, *states: int) -> None:
        """Bring an area of VM1 through states, under the lock that the case holds."""
        for state in states:
            lib.mc_area_set(self.host, self.pointer(), area, state)

    def record(self, op: int, *args: int, status: int = 0) -> Any:
        """A ``struct mc_record``."""
        record = ffi.new("struct mc_record *", {"op": op, "id": 7, "status": status})
        for index, value in enumerate(args):
            record.arg[index] = value
        return record

    def behave(self, domid: int = VM1, **callbacks: Callable[..., int]) -> None:
        """Give a domain a copy of its mechanism with some functions replaced."""
        domain = self.domain(domid)
        copy = ffi.new("struct mc_mechanism *", domain.mechanism[0])
        self._replace(copy, callbacks)
        domain.mechanism = copy

    def tmem(self, slab_areas: int = 4, **callbacks: Callable[..., int]) -> Any:
        """Give the host a tmem made of callbacks; its ``slab_used``."""
        self.host.tmem.slab_areas = self.host.tmem_areas_max = slab_areas
        self.host.slab_used = used = ffi.new("uint8_t[]", slab_areas)
        self._kept.append(used)
        self._replace(self.host.tmem, callbacks)
        return used

    def _replace(self, struct: Any, callbacks: dict[str, Any]) -> None:
        kind = ffi.typeof(struct)
        fields = dict((kind.item if kind.kind == "pointer" else kind).fields)
        for name, function in callbacks.items():
            kind, functions = fields[name].type, [function]
            if kind.kind == "array":  # jobs
                kind, functions = kind.item, function
            made = [ffi.callback(kind, one) for one in functions]
            setattr(struct, name, made[0] if functions == [function] else made)
            self._kept.append(made)
        self._kept.append(struct)

    def lock(self) -> None:
        """Take the host's lock, for a call that wants it held."""
        lib.mc_host_lock(self.host)

    def unlock(self) -> None:
        """Let go of it, for a case whose host goes on."""
        lib.mc_host_unlock(self.host)

    def push(self, guest: GuestDouble, op: int, *args: int, tmem: bool = False) -> None:
        """Put a request on a ring without waiting for its answer."""
        record = self.record(op, *args)
        front = guest._fronts[tmem]
        assert abi.mc_front_push(front, abi_record(record)) == 0
        abi.mc_front_publish(front)

    def serve(self) -> None:
        """Start the service thread; a check that fails on it ends the child."""
        if not self._serving:
            self._start(lib.mc_service_run)
        self._serving = True
        while not self.host.service_running:
            time.sleep(POLL_S)

    def work(self) -> None:
        """Start the worker; a check that fails on it ends the child."""
        self._start(lib.mc_worker_run)

    def _start(self, run: Callable[[Any], int]) -> None:
        threading.Thread(target=run, args=(self.host,), daemon=True).start()

    def wait(self, done: Callable[[], object]) -> None:
        """Poll until ``done``; the child's alarm bounds it."""
        while not done():
            time.sleep(POLL_S)

    def goes_on(self) -> None:
        """VM1 is broken by our own mistake; VM2 is served; the ledger adds up without VM1."""
        self.wait(lambda: self.domain(VM1).phase == lib.MC_BROKEN)
        assert self.domain(VM1).broken_status == -abi.MC_EBROKEN
        self.serve()
        status, _ = self.guest(VM2).send(abi.MC_OP_NOP)
        assert status == 0, f"VM2 was answered {status}"
        assert lib.mc_domain_close(self.host, VM1, 0) == 0
        where = ffi.new("uint32_t *")
        assert lib.mc_host_validate(self.host, where) == 0, f"not valid at {where[0]}"


def abi_record(record: Any) -> Any:
    """A record of one cffi module as the other takes it."""
    return abi_ffi.cast("struct mc_record *", int(ffi.cast("uint64_t", record)))


@dataclass(frozen=True)
class Fault:
    """A fault, and the check that must report it.

    ``inject`` spoils state of the lab and calls what must notice. ``file`` is the base name of the
    C file. ``detaches``: the check is an ``MC_CHECK_DOMAIN``; the lab then has VM2 as a bystander.
    ``prepare`` is called before the child is forked: what all cases of a table share is made once.
    """

    name: str
    file: str
    function: str
    inject: Callable[[CheckLab], object]
    detaches: bool = False
    prepare: Callable[[], object] = lambda: None

    def __str__(self) -> str:
        return self.name


class Faults(list[Fault]):
    """The table of a test module: ``@FAULTS.of(file, function)`` adds a case of that name.

    A case of several checks of one function that differ in what is spoilt is several functions.
    """

    def of(
        self, file: str, function: str, *, detaches: bool = False
    ) -> Callable[[Callable[[CheckLab], object]], Callable[[CheckLab], object]]:
        """Add the decorated case."""

        def add(inject: Callable[[CheckLab], object]) -> Callable[[CheckLab], object]:
            name = inject.__name__.strip("_").replace("_", " ")
            self.append(Fault(name, file, function, inject, detaches))
            return inject

        return add

    def unlocked(self, file: str, function: str, call: Callable[[CheckLab], object]) -> None:
        """Add a case: ``call`` calls a function that wants the lock held, which it is not."""
        self.append(Fault(f"{function} without the lock", file, function, call))


@dataclass(frozen=True)
class Outcome:
    """How the child of a case ended: the signal (0: it ended by itself), exit code and stderr."""

    signal: int
    code: int
    stderr: str

    @property
    def reports(self) -> list[tuple[str, int, str, str]]:
        """File, line, function and the rest of every report."""
        return [
            (Path(file).name, int(line), function, rest)
            for file, line, function, rest in REPORT.findall(self.stderr)
        ]


def outcome_of(fault: Fault) -> Outcome:
    """Run a case in a forked child."""
    fault.prepare()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forked beside threads: C only
        pid = os.fork()
    if not pid:
        _child(fault, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        stderr = pipe.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return Outcome(os.WTERMSIG(status), 0, stderr)
    return Outcome(0, os.WEXITSTATUS(status), stderr)


def _child(fault: Fault, stderr_fd: int) -> None:
    """Never returns: ends by the check, or with 0 when all went on, or with 1 and a traceback."""
    code = 1
    try:
        faulthandler.disable()
        os.dup2(stderr_fd, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CHILD_S)
        lab = CheckLab()
        if fault.detaches:
            lab.open(VM2)
        fault.inject(lab)
        if fault.detaches:
            lab.goes_on()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def assert_seen(fault: Fault, outcome: Outcome) -> None:
    """The check of the case reported, and ended what it is to end."""
    assert outcome.reports, outcome
    file, _, function, rest = outcome.reports[0]
    assert (file, function) == (fault.file, fault.function), outcome
    assert any(digit.isdigit() for digit in rest), f"no values: {rest}"
    if fault.detaches:
        assert (outcome.signal, outcome.code) == (0, 0), outcome
        assert f": domain {VM1}: " in rest, rest
    else:
        assert outcome.signal == signal.SIGABRT, outcome


@dataclass(frozen=True)
class Check:
    """A check in a source: where it begins and ends, and the function it stands in."""

    file: str
    function: str
    first_line: int
    last_line: int


def checks_in(path: Path) -> list[Check]:
    """Every check of a C file or header, but for the definition of the macros."""
    text = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m[0]), path.read_text(), flags=re.S)
    text = re.sub(r'"(?:[^"\\]|\\.)*"', lambda m: '"' + " " * (len(m[0]) - 2) + '"', text)
    found = []
    for match in OPEN.finditer(text):
        before = text[: match.start()]
        lines = before.split("\n")
        if lines[-1].startswith("#define") or lines[-2].endswith("\\"):
            continue
        end, depth = match.end(), 1
        while depth:
            step = CLOSE.search(text, end)
            assert step is not None, f"{path}: a check without its end"
            end, depth = step.end(), depth + (1 if step[0] == "(" else -1)
        function = _function_around(before)
        first = before.count("\n") + 1
        found.append(
            Check(path.name, function, first, first + text[match.start() : end].count("\n"))
        )
    return found


def _function_around(before: str) -> str:
    """The function in whose body a text ends: its head is the last line that is not indented."""
    body = before.rfind("\n{")
    head = before[:body].rsplit("\n\n", 1)[-1]
    names = re.findall(r"\b(\w+)\(", head)
    assert names, head
    return str(names[0])
