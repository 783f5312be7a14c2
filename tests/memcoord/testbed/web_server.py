"""``memcoord web`` as a process, and plain HTTP to it: not a test."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

WAIT_S = 60.0
COMMAND = "from memcoord.__main__ import main; main()"


class Answer:
    """What was answered: status, headers, body."""

    def __init__(self, answer: http.client.HTTPResponse, body: bytes) -> None:
        self.status, self.headers, self.body = answer.status, answer.headers, body

    @property
    def value(self) -> Any:
        """The body, which is JSON."""
        return json.loads(self.body)


class WebServer:
    """The page's server for one run, until the block ends."""

    def __init__(self, place: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", COMMAND, "web", str(place), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url, self.port, self.path, self.cookie = "", 0, "", ""

    def __enter__(self) -> Self:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate(timeout=WAIT_S)[1])
        self.url = json.loads(line)["url"]
        self.port = urlsplit(self.url).port or 0
        welcome = self.ask("/?" + urlsplit(self.url).query, {"Cookie": ""})
        self.path = welcome.headers["Location"]
        self.cookie = welcome.headers["Set-Cookie"].split(";")[0]
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> tuple[int, str]:
        """Its exit code after SIGINT, and all that it said beside the address."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        out, errors = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, out + errors

    def connection(self) -> http.client.HTTPConnection:
        """A new one."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)

    def ask(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> Answer:
        """One request with the cookie, unless ``headers`` has another one."""
        connection = self.connection()
        try:
            connection.request(method, path, headers={"Cookie": self.cookie, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer, answer.read())
        finally:
            connection.close()

    def get(self, what: str) -> Any:
        """The JSON below the page's own path."""
        answer = self.ask(self.path + what)
        assert answer.status == 200, answer.body
        return answer.value

    def wait_for(self, what: str, done: Callable[[Any], bool]) -> Any:
        """The JSON of ``what`` once it is as wanted."""
        until = time.monotonic() + WAIT_S
        while True:
            answer = self.ask(self.path + what)
            if answer.status == 200 and done(answer.value):
                return answer.value
            assert time.monotonic() < until, answer.body[-2000:]
            time.sleep(0.05)

    def stream(self, query: str = "") -> tuple[http.client.HTTPConnection, Any]:
        """A connection that the stream is read from, and its answer; the caller closes both."""
        connection = self.connection()
        connection.request("GET", f"{self.path}stream{query}", headers={"Cookie": self.cookie})
        return connection, connection.getresponse()
