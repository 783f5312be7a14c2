"""Fixtures of every test: no leaks, signals as usual, where the data is."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
SETTLE_STEPS = 1000
SETTLE_STEP_S = 0.02
SETTLE_STEPS_PER_COLLECTION = 50
#: What an fd of ours points at. Libraries may open ordinary files once and keep them.
COUNTED_FDS = ("/memfd:", "anon_inode:[eventfd]", "anon_inode:[userfaultfd]", "pipe:", "socket:")


# An example may take as long as the machine needs. Under tox the same examples are tried each time,
# so that a change is blamed only for what it broke; run pytest itself to try others.
settings.register_profile(
    "memcoord",
    deadline=None,
    derandomize="TOX_ENV_NAME" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("memcoord")


@pytest.fixture(scope="session", autouse=True)
def signals_heard() -> None:
    """Whoever started the tests, in the background or under nohup, may have signals ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            own = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
            signal.signal(number, own)


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves an fd, a mapping of shared memory or a child process behind."""
    before = _held()
    yield
    leaked = _held() - before
    for step in range(SETTLE_STEPS):
        if not leaked:
            return
        if step % SETTLE_STEPS_PER_COLLECTION == 0:  # a collection takes as long as five steps
            gc.collect()
        time.sleep(SETTLE_STEP_S)  # a thread of a closed ZeroMQ context may still be ending
        leaked = _held() - before
    assert not leaked, f"left behind: {dict(leaked)}"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The directory of real data: MEMCOORD_DATA, or shared/data beside the checkout; else skip."""
    named = os.environ.get("MEMCOORD_DATA")
    where = Path(named) if named else ROOT.parent / "shared" / "data"
    if not where.is_dir():
        pytest.skip("no data: set MEMCOORD_DATA")
    return where


@pytest.fixture
def short_path() -> Iterator[Path]:
    """As ``tmp_path``, with a path short enough for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="mc-") as path:
        yield Path(path).resolve()


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the source tree, also when the packages under test come from a wheel."""
    return ROOT


def _held() -> Counter[str]:
    return Counter([*_fds(), *_mappings(), *_children()])


def _fds() -> Iterator[str]:
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        if target.startswith(COUNTED_FDS):
            yield f"fd {target.split(':[')[0].removesuffix(' (deleted)')}"


def _mappings() -> Iterator[str]:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            if "/memfd:" in line:
                yield f"mapping {line.split(maxsplit=5)[5].strip()}"


def _children() -> Iterator[str]:
    for task in os.listdir("/proc/self/task"):
        try:
            text = Path(f"/proc/self/task/{task}/children").read_text(encoding="ascii")
        except OSError:
            continue
        yield from (f"child {pid}" for pid in text.split())
