"""One hypervisor to a run directory: locks, stale sockets, the token."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hypervisor.public.errors import ConfigError
from hypervisor.public.messages import ATTACH_SOCKET, CONTROL_SOCKET, TOKEN_FILE
from hypervisor.run_dir import LOCK_FILE, claim, is_locked, make_token

CLAIM = """
import os, sys
from pathlib import Path
from hypervisor.run_dir import claim
with claim(Path(sys.argv[1])):
    print("claimed", flush=True)
    sys.stdin.readline()
    os._exit(9)
"""


def listener(path: Path, kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind)
    made.bind(str(path))
    made.listen(1)
    return made


def test_a_second_hypervisor_is_refused_and_touches_nothing(short_path: Path) -> None:
    with claim(short_path):
        control = short_path / CONTROL_SOCKET
        with listener(control, socket.SOCK_STREAM):
            with pytest.raises(ConfigError, match=f"process {os.getpid()}"), claim(short_path):
                pass
            assert control.exists()
        assert is_locked(short_path / LOCK_FILE)
    assert not (short_path / LOCK_FILE).exists()


def test_a_killed_hypervisor_leaves_the_directory_to_the_next(short_path: Path) -> None:
    for name, kind in (
        (ATTACH_SOCKET, socket.SOCK_SEQPACKET),
        (CONTROL_SOCKET, socket.SOCK_STREAM),
    ):
        listener(short_path / name, kind).close()
    command = [sys.executable, "-P", "-c", CLAIM, str(short_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=Path.cwd()) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"claimed\n"
        with pytest.raises(ConfigError, match=f"process {other.pid}"), claim(short_path):
            pass
        other.stdin.write(b"\n")
        other.stdin.flush()
        assert other.wait(60) == 9
    assert [entry.name for entry in short_path.iterdir()] == [LOCK_FILE]
    with claim(short_path):
        pass
    assert list(short_path.iterdir()) == []


def test_a_socket_that_somebody_answers_is_not_taken_away(short_path: Path) -> None:
    attach = short_path / ATTACH_SOCKET
    with listener(attach, socket.SOCK_SEQPACKET):
        with pytest.raises(ConfigError, match="answered"), claim(short_path):
            pass
        assert attach.exists()


def test_looking_at_a_lock_leaves_it_free(short_path: Path) -> None:
    assert not is_locked(short_path / LOCK_FILE)
    (short_path / LOCK_FILE).touch()
    assert not is_locked(short_path / LOCK_FILE)


def test_a_token_is_new_each_time_and_readable_by_one_user(short_path: Path) -> None:
    (short_path / TOKEN_FILE).symlink_to(short_path / "elsewhere")
    first = make_token(short_path)
    assert make_token(short_path) != first
    assert (short_path / TOKEN_FILE).stat().st_mode & 0o777 == 0o600
    assert not (short_path / "elsewhere").exists()
