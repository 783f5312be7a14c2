"""Goal: a state file has the newest whole state, at whatever instant its writer ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.keeping.state_file import SLOT_BYTES, StateFile

KILLS = 30
WRITER = """
import os, sys
from hypervisor.keeping.state_file import StateFile
state, line = StateFile(int(sys.argv[1])), int(sys.argv[2])
number = int(state.read()[:8] or b"0")
while True:
    number += 1
    state.write(b"%08d" % number * (number % 1000 + 1))
    os.write(line, b"%08d" % number)
"""


def test_a_new_one_is_empty_and_what_is_written_is_read_elsewhere() -> None:
    with contextlib.closing(StateFile()) as state:
        assert state.read() == b""
        for data in (b"one", b"", b"three"):
            state.write(data)
            with contextlib.closing(StateFile(os.dup(state.fd))) as other:
                assert other.read() == state.read() == data
        with pytest.raises(ValueError, match="more than"):
            state.write(bytes(SLOT_BYTES))
        assert state.read() == b"three"


@given(where=st.integers(0, 40), value=st.integers(0, 255), writes=st.integers(1, 4))
def test_a_torn_slot_leaves_the_one_before(where: int, value: int, writes: int) -> None:
    with contextlib.closing(StateFile()) as state:
        written = [b""] + [b"%d" % number * 7 for number in range(writes)]
        for data in written[1:]:
            state.write(data)
        os.pwrite(state.fd, bytes([value]), SLOT_BYTES * (writes % 2) + where)
        with contextlib.closing(StateFile(os.dup(state.fd))) as other:
            assert other.read() in written[-2:]


@pytest.mark.process
def test_a_killed_writer_leaves_what_it_acknowledged() -> None:
    with contextlib.closing(StateFile()) as state:
        for kill in range(KILLS):
            ours, theirs = os.pipe()
            command = [sys.executable, "-P", "-c", WRITER, str(state.fd), str(theirs)]
            with subprocess.Popen(command, pass_fds=(state.fd, theirs)) as writer:
                os.close(theirs)
                told = b"".join(os.read(ours, 8) for _ in range(1 + 37 * kill))
                writer.send_signal(signal.SIGKILL)
            with contextlib.closing(os.fdopen(ours, "rb")) as rest:
                told += rest.read()
            last = int(told[-8:])
            with contextlib.closing(StateFile(os.dup(state.fd))) as other:
                data = other.read()
            number = int(data[:8])
            assert last <= number <= last + 1
            assert data == b"%08d" % number * (number % 1000 + 1)
