"""A run as the page's server knows it: followed while it lives, read from its files afterwards.

Owns: ``Following``, the one reader of the feed behind all viewers, with the past that they can go
back to. Everything is told to everybody at once, so that one more viewer costs a message. Used from
one event loop; files of a run that is over are read in a thread of their own.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool

from memcoord.testbed.archive import svg
from memcoord.testbed.archive.columns import BadRunFile
from memcoord.testbed.archive.over_time import CURVES_MAX, QUANTITIES
from memcoord.testbed.archive.run import open_run
from memcoord.testbed.watch import ended
from memcoord.testbed.watch.ends import ends_of
from memcoord.testbed.watch.frame import frame_of
from memcoord.testbed.watch.history import History
from memcoord.testbed.watch.publications import Publication
from memcoord.testbed.watch.reader import FeedReader
from memcoord.testbed.watch.watched_run import WatchedRun
from memcoord.testbed.web.timeline import FIELDS, LOOKS_MAX, Timeline
from memcoord.testbed.web.viewers import Viewer, Viewers, event

#: How often the feed is read, and how often viewers are told how old the last look is.
READ_S, TELL_S = 0.1, 1.0
#: Of a run that is over: about as many points as a curve can show.
ENDED_LOOKS = 1000
#: Policies' runs that are kept in memory once somebody looked at them.
PARTS_KEPT = 4
LIVE = -1


class Following:
    """One run and its viewers."""

    def __init__(self, place: Path) -> None:
        self.viewers = Viewers()
        self._place = place
        self._run = WatchedRun(place)
        self._live = Timeline()
        self._tick = (0, 0)
        self._told_s = 0.0
        self._parts: dict[ended.Part, float] | None = None
        self._loaded: dict[int, Timeline] = {}
        self._loading = asyncio.Lock()

    async def follow(self) -> None:
        """Read the feed until the run is over, and tell the viewers, without end."""
        with FeedReader(self._place) as reader:
            reader.subscribe()
            while True:  # until the server's end cancels it
                self._run.read(reader, 0)
                self._run.ask_whether_it_is_over(time.monotonic())
                self._look()
                await asyncio.sleep(READ_S)

    def _look(self) -> None:
        """Keep and tell a look where there is news, and how old the last one is where there is not.

        What is shown is as old as its tick, however often this process says so.
        """
        now_s = time.monotonic()
        history = self._run.history
        last = history.last
        seen = (0, 0) if last is None else (last.tick, last.monotonic_ns)
        if last is not None and seen != self._tick and not self._run.ended:
            at_s = _wall_s(history)
            if self._live.is_due(at_s, len(last.domains)):
                frame = self._run.frame()
                assert frame is not None
                self._tick, self._told_s = seen, now_s
                look = self._live.add(at_s, history, frame)
                for viewer in self.viewers:
                    viewer.put(event("look", self._opened(look, viewer.domain, at_s)))
                return
        if now_s - self._told_s >= TELL_S:
            self._told_s = now_s
            for viewer in self.viewers:
                viewer.put(event("age", self._age()))

    def _opened(self, look: bytes, domain: str, at_s: float) -> bytes:
        """A look, with what is known of one domain beside it."""
        detail = self._detail(self._live, domain, at_s)
        if detail:
            frame = self._run.frame(opened=domain)
            if frame is not None and frame.detail is not None:
                detail["mechanism"] = frame.detail.mechanism
                detail["unreached"] = frame.detail.unreached
        return b'{"look":%s,"detail":%s}' % (look, msgspec.json.encode(detail or None))

    @staticmethod
    def _detail(timeline: Timeline, domain: str, at_s: float) -> dict[str, Any]:
        return {"name": domain, "decided": timeline.decided(domain, at_s)} if domain else {}

    def _age(self) -> bytes:
        frame = self._run.frame()
        age_s, is_stale = (0.0, False) if frame is None else (frame.age_s, frame.is_stale)
        return msgspec.json.encode({"ended": self._run.ended, "age_s": age_s, "is_stale": is_stale})

    def seat(self, domain: str) -> Viewer:
        """A viewer, who is told at once how things stand."""
        viewer = Viewer(domain)
        viewer.put(event("age", self._age()))
        return viewer

    async def about(self) -> dict[str, Any]:
        """What the page must know before it draws anything."""
        verdict: list[str] = []
        if self._run.ended:
            verdict = await run_in_threadpool(_verdict, self._place)
        return {
            "run": self._place.name,
            "ended": self._run.ended,
            "verdict": verdict,
            "has_report": bool(verdict),
            "parts": [_name_of(part) for part in await self._known_parts()],
            "panels": [
                {"name": one.name, "title": one.title, "unit": one.unit, "top": one.top}
                for one in QUANTITIES
            ],
            "curves_max": CURVES_MAX,
            "fields": FIELDS,
            "looks_max": LOOKS_MAX,
            "colours": svg.COLOURS,
            "shades": svg.SHADES,
        }

    async def _known_parts(self) -> dict[ended.Part, float]:
        """Policies' runs in the files of a run that is over, and how long they were."""
        if not self._run.ended:
            return {}
        if self._parts is None:
            self._parts = await run_in_threadpool(ended.parts, self._place)
        return self._parts

    async def timeline(self, part: int) -> Timeline | None:
        """What can be shown of a part, by its number, or of what was followed; None if nothing."""
        if part == LIVE:
            return self._live
        parts = await self._known_parts()
        if not 0 <= part < len(parts):
            return None
        async with self._loading:
            found = self._loaded.pop(part, None)
            if found is None:
                found = await run_in_threadpool(_again, self._place, *[*parts.items()][part])
            self._loaded[part] = found
            while len(self._loaded) > PARTS_KEPT:
                del self._loaded[next(iter(self._loaded))]
        return found

    async def look(self, part: int, at_s: float, domain: str) -> bytes | None:
        """A look at the past, as ``follow`` tells looks, or ``null`` before there was one.

        None where there is no such part.
        """
        timeline = await self.timeline(part)
        if timeline is None:
            return None
        look = timeline.look(at_s)
        if look is None:
            return b"null"
        detail = self._detail(timeline, domain, at_s) or None
        return b'{"look":%s,"detail":%s}' % (look, msgspec.json.encode(detail))


def _wall_s(history: History) -> float:
    """When the last tick was, by the clock on the wall."""
    assert history.hello is not None
    assert history.last is not None
    ahead_ns = history.hello.time_ns - history.hello.monotonic_ns
    return round((history.last.monotonic_ns + ahead_ns) / 1e9, 3)


def _name_of(part: ended.Part) -> str:
    policy, number = part
    return f"{policy}, round {number + 1}" if number else policy


def _verdict(place: Path) -> list[str]:
    try:
        return open_run(place).verdict
    except BadRunFile:
        return []


def _again(place: Path, part: ended.Part, end_s: float) -> Timeline:
    """All looks at a policy's run that is over, which took ``end_s``."""
    timeline, history = Timeline(max(end_s / ENDED_LOOKS, 1e-6)), History()
    ends = ends_of(place, *part)
    for message in ended.messages(place, part):
        history.hear(message)
        if isinstance(message, Publication):
            at_s = message.monotonic_ns / 1e9
            if timeline.is_due(at_s, len(message.domains)):
                frame = frame_of(history, message.monotonic_ns, title=place.name, ends=ends)
                assert frame is not None
                timeline.add(at_s, history, frame)
    return timeline
