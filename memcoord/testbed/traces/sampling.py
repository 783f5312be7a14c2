"""Recording the demand of a program: it runs, and a thread in C samples what its processes hold.

Owns: starting and ending the program, the sampling thread, the cost of sampling. The thread takes
SCHED_FIFO where that is permitted, so that a busy machine does not make it late. The program leads
a session of its own and is ended, with all of its session's processes that are left, when its time
is up. The program keeps its standard input and output unless ``quiet``.
Called by: the verb ``memcoord trace record-demand``, ``memcoord.benchmarks.bursts.record``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hypervisor.public.errors import ConfigError, InternalError
from memcoord.testbed.traces._table import ffi, lib
from memcoord.testbed.traces.demand import DemandTrace

PERIOD_US = 500
PERIOD_US_MIN, PERIOD_US_MAX = 50, 1_000_000
#: New processes are looked for, and shared memory is read, about as often.
LOOK_US, SHARED_US = 1_000, 1_000
SECONDS_MAX = 3600.0
ROWS_MAX = 1 << 21
FIFO_PRIORITY = 1
END_S = 5.0


@dataclass(frozen=True)
class Sampled:
    """What was recorded, and what recording took."""

    trace: DemandTrace
    exit_code: int | None  # None: the program was ended when its time was up
    samples: int
    late: int  # samples that came a period late and more
    seconds: float
    cpu_share: float  # of one CPU, spent on sampling
    us_per_sample: float
    processes: int
    is_full: bool  # ended by ROWS_MAX


def record(
    argv: Sequence[str],
    *,
    period_us: int = PERIOD_US,
    seconds: float = SECONDS_MAX,
    quiet: bool = False,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Sampled:
    """Run ``argv`` and sample it until it ends, at most ``seconds``. ConfigError when it cannot
    run, or a number is out of bounds."""
    if not PERIOD_US_MIN <= period_us <= PERIOD_US_MAX:
        raise ConfigError("--period-us", f"must be {PERIOD_US_MIN} to {PERIOD_US_MAX}")
    if not 0 < seconds <= SECONDS_MAX:
        raise ConfigError("--seconds", f"must be above 0 and at most {SECONDS_MAX:g}")
    rows = ffi.new("struct mc_demand_row[]", ROWS_MAX)
    told = ffi.new("struct mc_demand_sampling *")
    told.period_ns, told.rows, told.room = period_us * 1000, rows, ROWS_MAX
    told.look_every = max(LOOK_US // period_us, 1)
    told.shared_every = max(SHARED_US // period_us, 1)
    null = subprocess.DEVNULL if quiet else None
    try:
        child = subprocess.Popen(
            argv, start_new_session=True, env=env, cwd=cwd, stdin=null, stdout=null, stderr=null
        )
    except OSError as error:
        raise ConfigError("PROGRAM", f"{argv[0]}: {error.strerror or error}") from None
    told.root = child.pid
    thread = threading.Thread(target=_sample, args=(told,), name="sampler")
    exit_code: int | None = None
    try:
        thread.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            exit_code = child.wait(seconds)
    finally:
        told.stop = 1
        thread.join()
        _end(child)
    return _sampled(told, rows, exit_code)


def _sample(told: Any) -> None:
    """On a thread of its own, whose class of scheduling ends with it."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
    lib.mc_demand_sample(told)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the program and what is left of its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _sampled(told: Any, rows: Any, exit_code: int | None) -> Sampled:
    if not told.count:
        raise InternalError("nothing was sampled: /proc cannot be read")
    table = np.frombuffer(ffi.buffer(rows, told.count * ffi.sizeof("struct mc_demand_row")), "<u8")
    t_ns, since_ns, *counts = table.reshape(-1, 5).astype(np.int64).T
    trace = DemandTrace(t_ns // 1000, since_ns // 1000, *counts)
    return Sampled(
        trace=trace,
        exit_code=exit_code,
        samples=int(told.samples),
        late=int(told.late),
        seconds=told.elapsed_ns / 1e9,
        cpu_share=told.cpu_ns / max(told.elapsed_ns, 1),
        us_per_sample=told.cpu_ns / max(told.samples, 1) / 1e3,
        processes=int(told.processes),
        is_full=bool(told.is_full),
    )
