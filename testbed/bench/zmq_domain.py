"""A domain whose doorbells travel over ZeroMQ, just large enough to send NOP records.

Owns: the domain's end of ``doorbell.ipc`` for the row ``rtt_sleep_zmq``. The frontend package rings
by eventfd and futex only; the hypervisor relays both kinds, and this measures the other one.
"""

from __future__ import annotations

import os
import socket
import time
from array import array
from pathlib import Path
from typing import Any

import zmq

from hypervisor.public import messages
from hypervisor.public.doorbell import ZmqBell
from hypervisor.public.errors import AttachRefused, PeerGone, error_of
from testbed._loops import ffi, lib

WAIT_S = 1.0
ROUNDS_PER_CALL_MAX = 16
ATTACH_S = 10.0
FDS = 3


class ZmqDomain:
    """One attached domain; made, used and closed by one thread."""

    def __init__(self, run_dir: str, name: str) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.settimeout(ATTACH_S)
        self._connection.connect(str(Path(run_dir) / messages.ATTACH_SOCKET))
        request = messages.AttachRequest(messages.VERSION, name, 0, "zmq")
        self._connection.send(messages.encode(request))
        data, fds, _, _ = socket.recv_fds(self._connection, messages.MESSAGE_BYTES_MAX, FDS)
        answer = messages.decode(data)
        if not isinstance(answer, messages.Attached):
            raise AttachRefused("bench", str(answer))
        self._bytes = answer.meta_bytes
        self._meta = int(lib.mc_map(fds[1], answer.meta_bytes))
        for fd in fds:
            os.close(fd)
        control = ffi.cast("struct mc_control *", self._meta)
        _ok(lib.mc_meta_check(control, answer.meta_bytes, answer.ram_bytes), "meta")
        ring = ffi.cast("struct mc_ring *", self._meta + control.memory_ring_offset)
        self._front: Any = ffi.new("struct mc_front *")
        lib.mc_front_bind(self._front, ring)
        self._context = zmq.Context()
        end: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        end.linger = 0
        end.identity = name.encode()
        end.connect(f"ipc://{Path(run_dir) / messages.DOORBELL_SOCKET}")
        self._bell = ZmqBell(end, met=True)

    def round_trips(self, count: int, rest_ns: int) -> array[int]:
        """Nanoseconds of each of ``count`` NOP records, sent one by one; never spins."""
        samples, record = array("Q"), ffi.new("struct mc_record *")
        for _ in range(count):
            lib.mcb_rest(rest_ns)
            start = time.perf_counter_ns()
            self._call(record)
            samples.append(time.perf_counter_ns() - start)
        return samples

    def _call(self, record: Any) -> None:
        front, bell = self._front, self._bell
        record.op, record.status = lib.MC_OP_NOP, 0
        _ok(lib.mc_front_push(front, record), "ring")
        if lib.mc_front_publish(front):
            bell.notify()
        for _ in range(ROUNDS_PER_CALL_MAX):
            if _ok(lib.mc_front_pop(front, record), "ring"):
                return
            if not lib.mc_front_arm(front):
                bell.wait(WAIT_S)
        raise PeerGone("the hypervisor does not answer over ZeroMQ")

    def close(self) -> None:
        """Leave the hypervisor."""
        self._bell.close()
        self._context.term()
        self._connection.close()
        lib.mc_unmap(self._meta, self._bytes)


def _ok(status: int, what: str) -> int:
    if status < 0:
        raise error_of(status, what)
    return status
