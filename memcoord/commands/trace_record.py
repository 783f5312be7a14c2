"""``memcoord trace record -- PROGRAM``: a trace of one's own program, by valgrind's lackey.

Owns: running the program under valgrind, reading what it traces while it runs, and ending both. The
trace is shortened while it is made, so that neither memory nor disk holds all of it. The program
keeps its standard input and output. Its children are not traced. Called by
``memcoord.commands.trace_verbs``.
"""

import contextlib
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hypervisor.public.errors import ConfigError
from hypervisor.public.units import parse_bytes
from memcoord.commands.trace_import import SUFFIX, Told, check_options, told
from memcoord.testbed.scenarios.trace_files import TraceForm
from memcoord.testbed.traces.converted import convert
from memcoord.testbed.traces.table import Table
from memcoord.testbed.traces.unpacked import BLOCK_BYTES

VALGRIND = "valgrind"
MISSING = (
    "needs valgrind, which is not installed: 'apt install valgrind' (Debian, Ubuntu), "
    "'dnf install valgrind' (Fedora), 'pacman -S valgrind' (Arch)"
)
#: How often the end of the program is looked for where it has left its output open to others.
POLL_MS = 200
#: How long a program that was asked to end may take.
END_S = 5.0


def record_trace(
    argv: Sequence[str],
    out: str | None,
    *,
    exact_from: int,
    references: int,
    page_size: str,
    quiet: bool,
) -> Told:
    """Run ``argv`` and write its trace: what the verb prints. ConfigError.

    At most ``references`` are recorded; then the program is ended. ``quiet``: what the program
    prints goes to standard error.
    """
    valgrind = shutil.which(VALGRIND)
    if valgrind is None:
        raise ConfigError("memcoord trace record", MISSING)
    if shutil.which(argv[0]) is None:
        raise ConfigError("PROGRAM", f"{argv[0]}: not found, or not executable")
    exact = f"_k{exact_from}" if exact_from else ""
    path = Path(out or f"{Path(argv[0]).name}{exact}{SUFFIX}")
    check_options(path, exact_from)
    form = TraceForm(format="lackey", page_size=_page_size(page_size))
    ours, theirs = os.pipe()
    words = [valgrind, "--tool=lackey", "--trace-mem=yes", "--child-silent-after-fork=yes"]
    with open(ours, "rb", buffering=0):
        try:
            child = subprocess.Popen(
                [*words, f"--log-fd={theirs}", *argv],
                pass_fds=[theirs],
                stdout=sys.stderr if quiet else None,
            )
        finally:
            os.close(theirs)
        with _ended(child):
            table = Table(argv[0], lambda: _output(ours, child), "PROGRAM", form)
            done = convert(table, path, phase_pages=exact_from, most=references)
            is_cut = references > 0 and done.references == references
            result, lines = told(done, exact_from)
            exit_code = None if is_cut else child.wait()
    if is_cut:
        lines.insert(1, f"ended after {references:,} references; --references N records more")
    elif exit_code:
        lines.insert(1, f"{argv[0]} ended with exit code {exit_code}")
    return result | {"complete": not is_cut, "exit_code": exit_code}, lines


def _page_size(text: str) -> int:
    try:
        return parse_bytes(text) if text else 0
    except ValueError as error:
        raise ConfigError("--page-size", str(error)) from None


def _output(fd: int, child: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What the tracer writes, in whole lines, until it ends: what comes later is a child's."""
    waiting = select.poll()
    waiting.register(fd, select.POLLIN | select.POLLHUP)
    rest = b""
    while True:
        has_ended = child.poll() is not None
        if not waiting.poll(0 if has_ended else POLL_MS):
            if has_ended:
                return
            continue
        data = os.read(fd, BLOCK_BYTES)
        if not data:
            return
        lines, newline, rest = (rest + data).rpartition(b"\n")
        if newline:
            yield lines + newline


@contextlib.contextmanager
def _ended(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """End ``child`` at the end, whatever happens."""
    try:
        yield
    finally:
        if child.poll() is None:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(END_S)
            child.kill()
            child.wait()
