"""The server that is scraped: who may ask, for what, how many at once; its token."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hypervisor.public.errors import ConfigError
from memcoord.testbed.metrics import server
from memcoord.testbed.metrics.exposition import OPEN, Exposition
from memcoord.testbed.metrics.heard import Heard
from memcoord.testbed.metrics.secret import token_of

TOKEN = "a-token-of-the-test"
WAIT_S = 60.0


@pytest.fixture
def port() -> Iterator[int]:
    with server.serving(Exposition(Heard()), 0, TOKEN) as port:
        yield port


def ask(
    port: int, path: str = "/metrics", method: str = "GET", **headers: str
) -> http.client.HTTPResponse:
    """The answer, read as a whole; ``headers`` beside a right token and host."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        sent = {"Authorization": f"Bearer {TOKEN}"} | headers
        connection.request(method, path, headers={k: v for k, v in sent.items() if v})
        answer = connection.getresponse()
        answer.text = answer.read().decode()  # type: ignore[attr-defined]
        return answer
    finally:
        connection.close()


def test_a_scrape_gets_the_metrics(port: int) -> None:
    answer = ask(port)
    assert answer.status == 200
    assert "memcoord_up 0.0" in answer.text  # type: ignore[attr-defined]
    assert answer.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.getheader("Cache-Control") == "no-store"
    open_ = ask(port, Accept=f"{OPEN};version=1.0.0,text/plain;q=0.5")
    assert (open_.getheader("Content-Type") or "").startswith(OPEN)
    assert open_.text.endswith("# EOF\n")  # type: ignore[attr-defined]
    head = ask(port, method="HEAD")
    assert (head.status, head.text) == (200, "")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "path", "method", "headers"),
    [
        (401, "/metrics", "GET", {"Authorization": ""}),
        (401, "/metrics", "GET", {"Authorization": "Bearer another"}),
        (401, "/metrics", "GET", {"Authorization": f"Bearer {TOKEN}\xff"}),
        (401, "/elsewhere", "GET", {"Authorization": ""}),
        (403, "/metrics", "GET", {"Host": "evil.example:80"}),
        (403, "/metrics", "GET", {"Host": "127.0.0.1.evil.example:80"}),
        (404, "/", "GET", {}),
        (404, "/metrics/../../etc/passwd", "GET", {}),
        (501, "/metrics", "POST", {}),
        (501, "/metrics", "DELETE", {}),
        (501, "/metrics", "PUT", {}),
    ],
)
def test_nothing_else_is_answered(
    port: int, status: int, path: str, method: str, headers: dict[str, str]
) -> None:
    answer = ask(port, path, method, **headers)
    assert answer.status == status
    assert "memcoord_" not in answer.text  # type: ignore[attr-defined]


def test_without_a_token_everybody_here_may_read_but_no_browser_under_another_name() -> None:
    with server.serving(Exposition(Heard()), 0, "") as port:
        assert ask(port, Authorization="").status == 200
        assert ask(port, Authorization="", Host=f"localhost:{port}").status == 200
        assert ask(port, Authorization="", Host=f"evil.example:{port}").status == 403


def test_it_listens_on_this_machine_only(port: int) -> None:
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    own = [line.split()[1] for line in lines if line.split()[1].endswith(f":{port:04X}")]
    assert {address.split(":")[0] for address in own} == {"0100007F"}


def is_busy(port: int) -> bool:
    """Whether it takes no more: the answer may be lost where what was asked is never read."""
    try:
        return ask(port).status == 503
    except ConnectionError:
        return True


def test_so_many_are_served_at_once_and_each_for_so_long(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    monkeypatch.setattr(server, "REQUEST_S", 1.0)
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), WAIT_S))
            for _ in range(server.REQUESTS_MAX)
        ]
        for one in silent:
            one.sendall(b"GET /met")
        assert is_busy(port)
        for one in silent:
            assert one.recv(1) == b"", "who says no more is sent away"
    while is_busy(port):  # the places are free again; the test has a limit of its own
        pass


def test_a_port_that_is_taken_is_told(port: int) -> None:
    with (
        pytest.raises(ConfigError, match=r"--port: .*in use"),
        server.serving(Exposition(Heard()), port, TOKEN),
    ):
        pass


def test_a_token_is_made_once_and_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.token"
    token = token_of(path)
    assert len(token) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert token_of(path) == token
    assert token_of(tmp_path / "other.token") != token
    assert {entry.name for entry in path.parent.iterdir()} == {path.name}, "no draft is left"


@pytest.mark.parametrize(
    "text", [b"", b"short\n", b"\xff" * 40, b"x" * 5000, b"two\nlines of it\n"]
)
def test_a_file_that_has_no_token_is_told(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match="--token-file"):
        token_of(path)
    assert path.read_bytes() == text


def test_a_place_that_can_hold_no_token_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--token-file"):
        token_of(tmp_path / "file" / "token")
