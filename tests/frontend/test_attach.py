"""The handshake: names and sizes asked for, refusals, and every answer that does not fit."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import frontend
from hypervisor.public.errors import AttachRefused, ConfigError, PeerGone, RingBroken
from hypervisor.public.messages import (
    ATTACH_SOCKET,
    VERSION,
    Attached,
    AttachRequest,
    Refused,
    encode,
)


def test_the_run_directory_or_its_socket(make_hypervisor: Any) -> None:
    hypervisor = make_hypervisor()
    for path in (hypervisor.path, str(hypervisor.path / ATTACH_SOCKET)):
        with frontend.attach(path, "web", 1024) as domain:
            assert hypervisor.request == AttachRequest(VERSION, "web", 1024, "futex")
            assert (domain.name, domain.domid) == ("vm1", 7)
            assert domain.maxmem_frames == 4 * 512
            assert len(domain.memory) == 4 * 512 * 4096


def test_without_a_name_the_pid_names_the_domain(make_hypervisor: Any) -> None:
    hypervisor = make_hypervisor()
    with frontend.attach(hypervisor.path):
        assert hypervisor.request.name == f"vm{os.getpid()}"


def test_nobody_listens(tmp_path: Path, open_fds: Callable[[], int]) -> None:
    before = open_fds()
    for path in (tmp_path, tmp_path / "missing", tmp_path / ATTACH_SOCKET, tmp_path / ("x" * 200)):
        with pytest.raises(PeerGone, match="memcoord hypervisor"):
            frontend.attach(path)
    (tmp_path / ATTACH_SOCKET).touch()
    with pytest.raises(PeerGone, match="memcoord hypervisor"):
        frontend.attach(tmp_path, wait=True, timeout_s=0.1)
    assert open_fds() == before


def test_waiting_for_a_hypervisor_that_starts(make_hypervisor: Any, tmp_path: Path) -> None:
    where = tmp_path / "hv0"
    got: list[int] = []
    waiting = threading.Thread(
        target=lambda: got.append(_attach_and_close(where / ATTACH_SOCKET, wait=True))
    )
    waiting.start()
    time.sleep(0.05)
    make_hypervisor()
    waiting.join(10)
    assert got == [7]


def _attach_and_close(path: Path, **options: Any) -> int:
    with frontend.attach(path, **options) as domain:
        return domain.domid


def test_refused(make_hypervisor: Any, open_fds: Callable[[], int]) -> None:
    hypervisor = make_hypervisor()
    hypervisor.answer = lambda _, peer: peer.send(encode(Refused(VERSION, "no-memory", "all gone")))
    before = open_fds()
    with pytest.raises(AttachRefused, match="all gone") as caught:
        frontend.attach(hypervisor.path)
    assert caught.value.code == "no-memory"
    hypervisor.connection.close()
    assert open_fds() <= before


def test_refused_before_the_request_was_read(tmp_path: Path) -> None:
    """As a peer of another user is: answered and closed at once, whoever is faster."""
    refusal = encode(Refused(VERSION, "other-user", "not yours"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / ATTACH_SOCKET))
        listener.listen()
        for pause_s in (0.0, 0.02) * 10:
            server = threading.Thread(target=_refuse_next, args=(listener, refusal, pause_s))
            server.start()
            with pytest.raises(AttachRefused, match="not yours"):
                frontend.attach(tmp_path)
            server.join()


def _refuse_next(listener: socket.socket, refusal: bytes, pause_s: float) -> None:
    connection, _ = listener.accept()
    time.sleep(pause_s)
    connection.send(refusal)
    connection.close()


def _attached(hypervisor: Any, **changes: Any) -> bytes:
    fields = {
        "version": VERSION,
        "domid": 7,
        "name": "vm1",
        "ram_bytes": hypervisor.ram_bytes,
        "meta_bytes": hypervisor.meta_bytes,
        "spin_ns": 0,
    }
    return encode(Attached(**(fields | changes)))


def _three(hypervisor: Any) -> list[int]:
    return [hypervisor.ram_fd, hypervisor.meta_fd, hypervisor.bell_fd]


BAD_ANSWERS: dict[str, Callable[[Any], tuple[bytes, list[int]]]] = {
    "garbage": lambda hv: (b"\xc1garbage", _three(hv)),
    "truncated": lambda hv: (_attached(hv)[:-2], _three(hv)),
    "another message": lambda hv: (encode(AttachRequest(VERSION, "x", 0)), _three(hv)),
    "another version": lambda hv: (_attached(hv, version=99), _three(hv)),
    "too long": lambda hv: (b"\x00" * 70000, _three(hv)),
    "no fds": lambda hv: (_attached(hv), []),
    "too few fds": lambda hv: (_attached(hv), _three(hv)[:2]),
    "too many fds": lambda hv: (_attached(hv), _three(hv) * 2),
    "fds cut short": lambda hv: (_attached(hv), _three(hv) * 5),
    "fds in another order": lambda hv: (_attached(hv), _three(hv)[::-1]),
    "ram too short": lambda hv: (_attached(hv, ram_bytes=hv.ram_bytes * 2), _three(hv)),
    "ram not whole areas": lambda hv: (_attached(hv, ram_bytes=4096), _three(hv)),
    "no ram": lambda hv: (_attached(hv, ram_bytes=0), _three(hv)),
    "negative ram": lambda hv: (_attached(hv, ram_bytes=-(2 << 20)), _three(hv)),
    "meta too short": lambda hv: (_attached(hv, meta_bytes=hv.meta_bytes + 4096), _three(hv)),
    "meta is ram": lambda hv: (
        _attached(hv, meta_bytes=hv.ram_bytes), [hv.ram_fd, hv.ram_fd, hv.bell_fd]
    ),
    "negative spin": lambda hv: (_attached(hv, spin_ns=-1), _three(hv)),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_ANSWERS)
def test_an_answer_that_does_not_fit_is_refused_and_leaves_no_fd(
    make_hypervisor: Any, open_fds: Callable[[], int], what: str
) -> None:
    hypervisor = make_hypervisor()
    data, fds = BAD_ANSWERS[what](hypervisor)
    hypervisor.answer = lambda _, peer: socket.send_fds(peer, [data], fds)
    before = open_fds()
    with pytest.raises(RingBroken):
        frontend.attach(hypervisor.path)
    hypervisor.connection.close()
    assert open_fds() <= before


@pytest.mark.parametrize("field", ["magic", "abi_version", "areas", "slots", "heads_offset"])
def test_a_wrong_control_page_is_refused(
    make_hypervisor: Any, open_fds: Callable[[], int], field: str
) -> None:
    hypervisor = make_hypervisor()
    setattr(hypervisor.control, field, getattr(hypervisor.control, field) + 1)
    before = open_fds()
    with pytest.raises(RingBroken, match="ELAYOUT"):
        frontend.attach(hypervisor.path)
    hypervisor.connection.close()
    assert open_fds() <= before


def test_a_hypervisor_that_hangs_up_or_is_silent(make_hypervisor: Any) -> None:
    hypervisor = make_hypervisor()
    hypervisor.answer = lambda _, peer: peer.close()
    with pytest.raises(PeerGone, match=r"closed|does not answer"):
        frontend.attach(hypervisor.path)
    hypervisor.answer = lambda _hypervisor, _peer: None
    with pytest.raises(PeerGone, match="does not answer"):
        frontend.attach(hypervisor.path, timeout_s=0.1)


def test_only_known_doorbells(make_hypervisor: Any) -> None:
    with pytest.raises(ConfigError, match="doorbell"):
        frontend.attach(make_hypervisor().path, doorbell="carrier pigeon")


def test_importing_and_attaching_load_nothing_heavy(make_hypervisor: Any) -> None:
    hypervisor = make_hypervisor()
    code = """
import sys, frontend
light = {"frontend.domain", "socket", "msgspec"}.isdisjoint(sys.modules)
with frontend.attach(sys.argv[1]) as domain:
    assert isinstance(domain, frontend.Domain)
    domain.free(domain.alloc())
heavy = {"numba", "numpy", "zmq", "ctypes", "asyncio", "typer", "rich"}
print(light, sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(hypervisor.path)],
        cwd=Path(frontend.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("True []", "")


def test_no_other_names() -> None:
    loose: Any = frontend
    with pytest.raises(AttributeError, match="no attribute 'detach'"):
        _ = loose.detach
