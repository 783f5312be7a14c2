"""Who may ask the page's server for anything, and what every answer forbids the browser.

Owns: ``Guard``, through which every request goes before anything looks at it, in this order: the
name by which the server was asked for (a foreign name that leads here is DNS rebinding), which site
asked, the method, and the secret. A browser shows it once, in the address that was printed; from
then on it has a cookie, which only this server is sent: it is named after the port, because a
machine's servers share their cookies, and of a path that nobody else knows.
"""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memcoord.testbed.runs.loopback import HOSTS

TOKEN_BYTES, PATH_BYTES = 24, 9
#: What the page may load and do: what comes from here, and nothing else.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """An ASGI application in front of another one, which it shows to those who have the token."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._cookie = f"memcoord_{port}"
        self.token = secrets.token_urlsafe(TOKEN_BYTES)
        self.path = f"/{secrets.token_urlsafe(PATH_BYTES)}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] != "http":
            return  # there are no others: neither a start to prepare nor a socket to open

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refusal(scope) or self._welcome(scope)
        if answer is not None:
            await answer(scope, receive, send_guarded)
            return
        inner = dict(scope) | {"path": "/" + scope["path"].removeprefix(self.path)}
        await self._app(inner, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        """Why this request gets nothing; None where it may ask."""
        headers = Headers(scope=scope)
        host = headers.getlist("host")
        if len(host) != 1 or _name_of(host[0]) not in HOSTS:
            return _told(403, "this server answers to 127.0.0.1 and localhost only")
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") or origin not in (None, f"http://{host[0]}"):
            return _told(403, "another site asked for this")
        if scope["method"] != "GET":
            answer = _told(405, "nothing can be changed here")
            answer.headers["Allow"] = "GET"
            return answer
        return None

    def _welcome(self, scope: Scope) -> Response | None:
        """The way to the page for who has the token, away from it for who has nothing."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and self._is_token(given):
            answer = RedirectResponse(self.path, 303)
            answer.set_cookie(
                self._cookie, self.token, path=self.path, httponly=True, samesite="strict"
            )
            return answer
        shown = Request(scope).cookies.get(self._cookie, "")
        if scope["path"].startswith(self.path) and self._is_token(shown):
            return None
        return _told(401, "open the address that memcoord web printed")

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def _name_of(host: str) -> str:
    """The name in a Host header, without the port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _told(status: int, why: str) -> Response:
    return PlainTextResponse(f"{why}\n", status)
