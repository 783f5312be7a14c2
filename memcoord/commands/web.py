"""``memcoord web``: a run in the browser, for who may read its directory.

Owns: what is checked before the server starts, and the line with its address. The server is a
reader of the feed as ``memcoord top`` is: it cannot slow the hypervisor, nor ask it for anything.
"""

from __future__ import annotations

import msgspec

from hypervisor.public.errors import MemcoordError
from memcoord.commands import tell
from memcoord.testbed.runs import hiding, rundir

HINT = "read-only, on this machine only; Ctrl-C ends it. Elsewhere: ssh -L PORT:127.0.0.1:PORT"


class NoWeb(MemcoordError):
    """Starlette or uvicorn is not installed; the text says how to install them."""


def web_command(run: str | None, port: int, as_json: bool) -> int:
    """Serve the page of a run until interrupted; the exit code. ConfigError, NoWeb."""
    try:
        from memcoord.testbed.web.serving import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise NoWeb("the page needs Starlette and uvicorn: pip install 'memcoord[web]'") from None
    place = rundir.find_watched(run)
    hiding.hide()  # this process knows the operator's token
    serve(place, port, _tell_json if as_json else _tell)
    return 0


def _tell(address: str) -> None:
    tell(address)
    tell(HINT)


def _tell_json(address: str) -> None:
    tell(msgspec.json.encode({"url": address}).decode())
