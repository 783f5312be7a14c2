"""Goal: what the kernel refuses is an error of ours, and costs nobody a frame.

Method: ``fault_script.py`` lives the life of a host, and ``fault.c`` has the Nth call of one kind
refused, N = 1, 2, 3, ... until none is left; then, from the Nth on, all. The ledger is validated
after every step. What was refused must be an error that names cause and cure. When the kernel
answers again, every file holds what the ledger says, and at the end everything is returned.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fault_script import LAST_OF_ALL

from frontend.relay import ZmqRelay
from hypervisor.public.errors import InternalError
from hypervisor.public.settings import MECHANISMS

HERE = Path(__file__).resolve().parent
CC = os.environ.get("CC", "gcc")
RUN_TIMEOUT_S = 600
#: Call -> errors that the kernel may give. Files, mappings and doorbells are made by the same code
#: for every mechanism; pages are populated and punched by code of its own in each.
ONCE_FOR_ALL = {
    "memfd_create": ("EMFILE", "ENOMEM"),
    "eventfd": ("EMFILE",),
    "mmap": ("ENOMEM",),
    "mbind": ("EPERM",),
    "pwritev": ("ENOMEM", "ENOSPC"),
}
OF_EACH = {"madvise": "ENOMEM", "fallocate": "ENOSPC"}
WALKS = [
    *(("direct", call, error) for call, errors in ONCE_FOR_ALL.items() for error in errors),
    *((name, call, error) for name in MECHANISMS for call, error in OF_EACH.items()),
]
#: Cause and cure, as a user reads them.
TOLD = re.compile(
    r"InternalError: .*the kernel refused .*; see free memory"
    r"|NoMemory: .*(the host has no \d+ frames|the host has no frames|ENOMEM|ETARGET)"
    r"|DomainBusy: .*try later or end what has it open"
)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What LD_PRELOAD takes."""
    path = tmp_path_factory.mktemp("fault") / "fault.so"
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([CC, *flags, str(HERE / "fault.c"), "-o", str(path), "-ldl"], check=True)
    return path


def walk(library: Path, *arguments: str) -> list[dict[str, Any]]:
    """One line per child."""
    done = subprocess.run(
        [sys.executable, "-P", str(HERE / "fault_script.py"), *arguments],
        env=os.environ | {"LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(RUN_TIMEOUT_S)
@pytest.mark.parametrize(
    ("mechanism", "call", "error", "count"),
    [(*walked, count) for walked in WALKS for count in (1, LAST_OF_ALL)],
)
def test_what_the_kernel_refuses_is_an_error_of_ours(
    mechanism: str, call: str, error: str, count: int, library: Path
) -> None:
    lives = walk(library, mechanism, call, error, str(count))
    assert [(life["number"], life["finding"]) for life in lives if life["finding"]] == []
    wrong = {text for life in lives for text in life["errors"] if not TOLD.search(text)}
    assert wrong == set()
    assert lives[0]["refused"] > 0
    assert lives[-1]["refused"] == 0


def test_a_relay_without_file_descriptors_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.eventfd, iter([True, False])

    def eventfd(*args: int) -> int:
        if next(calls, False):
            return real(*args)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "eventfd", eventfd)
    with pytest.raises(InternalError, match="file descriptor; see"):
        ZmqRelay("ipc:///nowhere", "any")  # the fd it had got is closed: see no_leaks
