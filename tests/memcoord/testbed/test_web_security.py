"""Goal: the page shows a run to its owner's browser alone. Method: ask a real server in every way
that it must refuse, one test for each line of what docs/security.md says of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from published_feed import PublishedFeed
from web_server import WAIT_S, WebServer

from memcoord.testbed.runs import rundir
from memcoord.testbed.web import guard, viewers

pytestmark = pytest.mark.process
PAGES = ("", "live.js", "uplot.js", "about", "history", "look", "stream", "report", "nothing")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    place = tmp_path_factory.mktemp("w") / "r"
    run = rundir.create("main", path=place, base=place.parent)
    with PublishedFeed(place), WebServer(place) as served:
        served.wait_for("look", lambda value: value and value["look"]["tick"] > 10)
        yield served
    run.finish("finished")


def test_only_the_loopback_is_listened_on(server: WebServer) -> None:
    found = psutil.Process(server.process.pid).net_connections("inet")
    listening = [one.laddr for one in found if one.status == psutil.CONN_LISTEN]
    assert [(one.ip, one.port) for one in listening] == [("127.0.0.1", server.port)]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "X"])
def test_nothing_can_be_changed(server: WebServer, method: str) -> None:
    for page in PAGES:
        answer = server.ask(server.path + page, method=method)
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET"


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_shown_without_the_token(server: WebServer, page: str) -> None:
    name = server.cookie.split("=")[0]
    for cookie in ("", f"{name}=", f"{name}=wrong", server.cookie[:-1], f"other={server.cookie}"):
        assert server.ask(server.path + page, {"Cookie": cookie}).status == 401
        wanted = server.ask(
            f"{server.path}{page}?{server.url.partition('?')[2]}", {"Cookie": cookie}
        )
        assert wanted.status == 401, "the token is good for the way to the page only"
    assert server.ask("/" + page).status == 401, "the cookie is good below the page's path only"
    assert server.ask(f"/{page}?token=wrong").status == 401


def test_the_token_becomes_a_cookie_and_leaves_the_address(server: WebServer) -> None:
    answer = server.ask("/?" + server.url.partition("?")[2], {"Cookie": ""})
    token = server.url.partition("token=")[2]
    assert (answer.status, answer.body) == (303, b"")
    assert token not in answer.headers["Location"]
    cookie, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert cookie == f"memcoord_{server.port}={token}"
    assert {one.lower() for one in attributes} == {
        *("httponly", "samesite=strict", f"path={server.path}".lower()),
    }
    assert len(token) >= guard.TOKEN_BYTES * 4 / 3
    assert len(server.path) > 8


def test_each_server_has_a_token_and_a_path_of_its_own(short_path: Path) -> None:
    run = rundir.create("main", base=short_path)
    with WebServer(run.path) as one, WebServer(run.path) as other:
        assert one.cookie.partition("=")[2] != other.cookie.partition("=")[2]
        assert one.path != other.path
        stolen = {"Cookie": one.cookie.replace(str(one.port), str(other.port))}
        assert other.ask(other.path, stolen).status == 401
    run.finish("finished")


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1"),
        *("0.0.0.0", "", "[::1]evil", "127.0.0.1@evil.example", "localhost:80:80"),
    ],
)
def test_a_foreign_name_that_leads_here_gets_nothing(server: WebServer, host: str) -> None:
    assert server.ask(server.path, {"Host": host}).status in (400, 403)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "[::1]:80", "localhost"])
def test_a_tunnel_may_have_another_port(server: WebServer, host: str) -> None:
    assert server.ask(server.path, {"Host": host}).status == 200


def test_a_request_without_a_host_or_with_two_gets_nothing(server: WebServer) -> None:
    for hosts in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), WAIT_S) as connection:
            cookie = f"Cookie: {server.cookie}\r\nConnection: close\r\n\r\n".encode()
            connection.sendall(f"GET {server.path} HTTP/1.1\r\n".encode() + hosts + cookie)
            assert connection.recv(64).split()[1] in (b"400", b"403")


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "anything"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_another_site_gets_nothing_even_with_the_cookie(
    server: WebServer, headers: dict[str, str]
) -> None:
    for page in PAGES:
        assert server.ask(server.path + page, headers).status == 403


def test_our_own_page_is_answered(server: WebServer) -> None:
    own = {"Sec-Fetch-Site": "same-origin", "Origin": f"http://127.0.0.1:{server.port}"}
    assert server.ask(server.path + "about", own).status == 200


def test_every_answer_forbids_what_the_page_does_not_need(server: WebServer) -> None:
    asked = [(server.path + page, {}) for page in PAGES if page not in ("stream", "report")]
    refused = [("/", {}), (server.path, {"Host": "evil.example"}), ("/no", {"Cookie": ""})]
    for path, headers in [*asked, *refused]:
        answer = server.ask(path, headers)
        assert {name: answer.headers[name] for name in guard.HEADERS} == guard.HEADERS
        assert "Server" not in answer.headers
    directives = dict(part.split(" ", 1) for part in guard.POLICY.split("; "))
    assert directives.pop("default-src") == "'none'"
    assert {value for value in directives.values()} == {"'self'", "'none'"}


@pytest.mark.parametrize(
    "path",
    [
        *("../guard.py", "..%2fguard.py", "%2e%2e/guard.py", "....//guard.py", "/etc/passwd"),
        *("..\\guard.py", "live.js/", "live.html", "uPlot.LICENSE", "%00", "live.js%00.css"),
    ],
)
def test_no_file_is_served_but_those_of_the_table(server: WebServer, path: str) -> None:
    assert server.ask(server.path + path).status == 404


def test_what_is_asked_for_badly_is_nothing_and_the_server_lives(server: WebServer) -> None:
    for query in ("look?at=x", "look?at=nan", "look?part=1e400", "look?part=-7&at=-1e308"):
        assert server.ask(server.path + query).status in (200, 404)
    assert server.ask(f"{server.path}look?domain={'x' * 10_000}").status == 200
    with suppress(ConnectionError):  # it hangs up before all was sent
        assert server.ask(f"{server.path}look?domain={'x' * 1_000_000}").status in (400, 431)
    assert server.ask(server.path, {"Upgrade": "websocket", "Connection": "Upgrade"}).status == 200
    assert server.ask(server.path, {"Cookie": f"\xff; =; {server.cookie}"}).status == 200


def test_a_ninth_viewer_is_turned_away_until_one_has_left(server: WebServer) -> None:
    with ExitStack() as all_of_them:
        streams = []
        for _ in range(viewers.VIEWERS_MAX):
            connection, answer = server.stream()
            all_of_them.callback(connection.close)
            all_of_them.callback(answer.close)
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            assert answer.readline().startswith(b"event: ")
            streams.append((connection, answer))
        assert server.ask(server.path + "stream").status == 503
        assert server.ask(server.path + "about").status == 200, "only the streams are full"
        for closed in streams[0]:
            closed.close()
        tries = 0
        while True:  # the server notices when it sends something
            connection, answer = server.stream()
            all_of_them.callback(connection.close)
            all_of_them.callback(answer.close)
            if answer.status == 200:
                break
            tries += 1
            assert tries < 10_000
    server.wait_for("about", lambda _: True)


def test_a_silent_connection_is_closed(server: WebServer) -> None:
    for begun in (b"", b"GET / HTTP/1.1\r\nHost: local"):
        with socket.create_connection(("127.0.0.1", server.port), WAIT_S) as connection:
            connection.sendall(begun)
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""


def test_nothing_is_said_and_interrupting_ends_it(short_path: Path) -> None:
    run = rundir.create("main", base=short_path)
    with WebServer(run.path) as server:
        connection, answer = server.stream()
        assert answer.status == 200
        server.ask("/?token=wrong")
        server.ask(server.path, {"Host": "evil.example"}, "POST")
        code, said = server.end()
        answer.close()
        connection.close()
    assert (code, said) == (0, "")
    run.finish("finished")
