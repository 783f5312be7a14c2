"""What the page's server answers: a fixed table of files, the past, one look, the stream, a report.

Owns: the routes. All of them read; ``Guard`` stands in front of them. Names of files come from the
table, never from a request.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from memcoord.testbed.archive import page, run_page
from memcoord.testbed.archive.columns import BadRunFile
from memcoord.testbed.archive.run import open_run
from memcoord.testbed.web.following import LIVE, Following
from memcoord.testbed.web.viewers import VIEWERS_MAX, Stream

ASSETS = Path(__file__).with_name("assets")
#: Path below the page's own -> file, and what it is.
FILES = {
    "": ("live.html", "text/html"),
    "live.css": ("live.css", "text/css"),
    "live.js": ("live.js", "text/javascript"),
    "curves.js": ("curves.js", "text/javascript"),
    "tables.js": ("tables.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "uplot.js": ("uPlot.iife.min.js", "text/javascript"),
    "uplot.css": ("uPlot.min.css", "text/css"),
}
DOMAIN_CHARACTERS_MAX = 64


def application(following: Following, place: Path) -> Starlette:
    """The application that shows one run."""

    async def about(_: Request) -> Response:
        return _json(msgspec.json.encode(await following.about()))

    async def history(request: Request) -> Response:
        timeline = await following.timeline(_part_of(request))
        if timeline is None:
            return _nothing()
        return _json(await run_in_threadpool(_encoded, timeline.history()))

    async def look(request: Request) -> Response:
        at_s = _number_of(request, "at")
        found = await following.look(_part_of(request), at_s, _domain_of(request))
        return _nothing() if found is None else _json(found)

    async def stream(request: Request) -> Response:
        if following.viewers.is_full:
            return PlainTextResponse(f"{VIEWERS_MAX} pages look at this already\n", 503)
        return Stream(following.viewers, following.seat(_domain_of(request)))

    async def report(_: Request) -> Response:
        try:
            text = await run_in_threadpool(_report, place)
        except BadRunFile as error:
            return PlainTextResponse(f"{error}\n", 404)
        policy = f"{page.POLICY}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    answers = {
        "about": about,
        "history": history,
        "look": look,
        "stream": stream,
        "report": report,
    }
    files = [Route(f"/{path}", _file(*what)) for path, what in FILES.items()]
    made = Starlette(routes=[*files, *(Route(f"/{path}", one) for path, one in answers.items())])
    made.router.redirect_slashes = False  # a path that is not in the table is nothing
    return made


def _file(name: str, kind: str) -> Any:
    data = (ASSETS / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(data, media_type=kind)

    return answer


def _encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _json(data: bytes) -> Response:
    return Response(data, media_type="application/json")


def _nothing() -> Response:
    return PlainTextResponse("there is nothing of that\n", 404)


def _number_of(request: Request, name: str) -> float:
    """A number of the query; infinite, which is now, where there is none."""
    try:
        value = float(request.query_params.get(name, "inf"))
    except ValueError:
        return math.inf
    return math.inf if math.isnan(value) else value


def _part_of(request: Request) -> int:
    value = _number_of(request, "part")
    return int(value) if math.isfinite(value) else LIVE


def _domain_of(request: Request) -> str:
    return request.query_params.get("domain", "")[:DOMAIN_CHARACTERS_MAX]


def _report(place: Path) -> str:
    return run_page.document(open_run(place))
