"""``memcoord top``: who has how much memory, who is starved, what the policy does, what it costs.

Owns: the loop that reads, draws and listens to keys, and the terminal meanwhile. It is a subscriber
as any other: it can neither slow the hypervisor nor ask it for anything. On a terminal it draws
until ``q``; into a pipe, or as a picture, it writes one look and ends. A run that is over shows its
end.
"""

from __future__ import annotations

import io
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from hypervisor.public.errors import ConfigError, PeerGone
from memcoord.commands import EXIT_FAILED, tell
from memcoord.testbed.runs import rundir
from memcoord.testbed.watch.frame import SORTS, Frame
from memcoord.testbed.watch.history import WINDOW_S
from memcoord.testbed.watch.reader import FeedReader
from memcoord.testbed.watch.screen import encodable, screen
from memcoord.testbed.watch.watched_run import WatchedRun

DELAY_S = 0.5
#: Drawing takes longer the more domains there are: above so many, once a second at most.
MANY_DOMAINS, MANY_DELAY_S = 16, 1.0
#: A first look waits for as many ticks as rates need, and no longer than this.
FIRST_S = 10.0
BATCH_COLUMNS, BATCH_LINES = 80, 50
PICTURE_COLUMNS = 100
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
KEY_BYTES = 32
HELP = "q quit   s sort   up/down choose   Enter open or close   p pause   ? help"


@dataclass(frozen=True)
class TopOptions:
    """Options of the command line. ``times`` None: once into a pipe, without end on a terminal."""

    batch: bool = False
    times: int | None = None
    delay_s: float = DELAY_S
    sort: str = "starved"
    domain: str = ""
    as_json: bool = False
    svg: str = ""


@dataclass
class Looking:
    """What the person at the keys has chosen."""

    sort: str
    opened: str = ""
    chosen: str = ""
    is_paused: bool = False
    has_help: bool = False
    is_over: bool = False

    def press(self, keys: bytes, names: list[str]) -> None:
        """Act upon what was typed; ``names`` of the domains as they are shown."""
        named = {b"\x1b[A": b"k", b"\x1b[B": b"j", b"\r": b"\n", b"\x1b": b"c", b"\x03": b"q"}
        match named.get(keys, keys[:1]):
            case b"q":
                self.is_over = True
            case b"s":
                self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
            case b"p":
                self.is_paused = not self.is_paused
            case b"?":
                self.has_help = not self.has_help
            case b"k" | b"j" as way if names:
                at = names.index(self.chosen) if self.chosen in names else -1 if way == b"j" else 0
                self.chosen = names[(at + (1 if way == b"j" else -1)) % len(names)]
                self.opened = self.chosen if self.opened else ""
            case b"\n" if names:
                self.chosen = self.chosen if self.chosen in names else names[0]
                self.opened = "" if self.opened else self.chosen
            case b"c":
                self.opened = ""


def top_command(run: str | None, options: TopOptions) -> int:
    """Show a run until it is told to stop; the exit code. ConfigError for what cannot be shown."""
    if options.sort not in SORTS:
        raise ConfigError("--sort", f"{options.sort!r} is none of {', '.join(SORTS)}")
    place = rundir.find_watched(run)
    watched, looking = WatchedRun(place), Looking(options.sort, options.domain, options.domain)
    is_batch = options.batch or options.as_json or bool(options.svg) or not sys.stdout.isatty()
    is_batch = is_batch or Console().is_dumb_terminal
    with FeedReader(place) as reader:
        reader.subscribe()
        if is_batch or not sys.stdin.isatty():
            return _batch(watched, reader, looking, options)
        return _interactive(watched, reader, looking, options)


def _batch(watched: WatchedRun, reader: FeedReader, looking: Looking, options: TopOptions) -> int:
    """One look after the other, as lines; each has a window of ticks behind it."""
    times = 1 if options.times is None else options.times
    _gather(watched, reader)
    shown = 0
    while True:  # until as many looks, the end of the run, or Ctrl-C
        frame = watched.frame(looking.sort, looking.opened)
        if frame is None:
            raise PeerGone(f"no tick of {watched.place} was seen, and none is kept")
        if options.svg:
            return _draw(frame, watched.ended, Path(options.svg))
        _write(frame, watched.ended, options.as_json)
        shown += 1
        if shown == times or watched.ended:
            return 0
        until_s = time.monotonic() + options.delay_s
        while (left_s := until_s - time.monotonic()) > 0:
            watched.read(reader, left_s)
        watched.ask_whether_it_is_over(time.monotonic())


def _gather(watched: WatchedRun, reader: FeedReader) -> None:
    """Wait for a window of ticks, FIRST_S at most, or for the news that the run is over."""
    begin_s = time.monotonic()
    while (passed_s := time.monotonic() - begin_s) < FIRST_S:
        watched.read(reader, 0.1)
        domains = watched.history.domains()
        if watched.history.last is not None and (
            passed_s >= WINDOW_S or (domains and domains[0].span_s >= WINDOW_S)
        ):
            return
        if watched.history.last is None and watched.ask_whether_it_is_over(time.monotonic()):
            return


def _write(frame: Frame, ended: str, as_json: bool) -> None:
    if as_json:
        tell(msgspec.json.encode(frame.plain() | {"ended": ended}).decode())
        return
    console = Console()
    width = console.width if console.is_terminal else BATCH_COLUMNS
    height = max(BATCH_LINES, len(frame.lines) + BATCH_LINES // 2)
    if console.is_terminal:
        lines = (encodable(line, console.encoding) for line in screen(frame, width, height, ended))
        console.print(Group(*lines), no_wrap=True, soft_wrap=True)
        return
    for line in screen(frame, width, height, ended):
        tell(encodable(line, sys.stdout.encoding).plain.rstrip())
    tell("")


def _draw(frame: Frame, ended: str, path: Path) -> int:
    """Write a look as a picture, which asks nobody for a font."""
    console = Console(record=True, file=io.StringIO(), width=PICTURE_COLUMNS, force_terminal=True)
    lines = screen(frame, PICTURE_COLUMNS, BATCH_LINES, ended)
    console.print(Group(*lines), no_wrap=True, soft_wrap=True)
    picture = _FONTS.sub("", console.export_svg(title="memcoord top"))
    path.write_text(picture, encoding="utf-8")
    tell(f"wrote {path}")
    return 0


def _interactive(
    watched: WatchedRun, reader: FeedReader, looking: Looking, options: TopOptions
) -> int:
    console, frame, shown = Console(), None, 0
    with _keys() as read_keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while not looking.is_over:
            watched.read(reader, 0)
            watched.ask_whether_it_is_over(time.monotonic())
            if not looking.is_paused:
                frame = watched.frame(looking.sort, looking.opened) or frame
            live.update(_drawn(frame, watched, looking, console), refresh=True)
            shown += frame is not None
            if shown == options.times:
                break
            names = [line.name for line in frame.lines] if frame is not None else []
            delay_s = options.delay_s
            if len(names) > MANY_DOMAINS:
                delay_s = max(delay_s, MANY_DELAY_S)
            if keys := read_keys(delay_s):
                looking.press(keys, names)
    if frame is None:
        tell(f"no tick of {watched.place} was seen")
        return EXIT_FAILED
    return 0


def _drawn(frame: Frame | None, watched: WatchedRun, looking: Looking, console: Console) -> Group:
    if frame is None:
        said = watched.ended or "waiting for the hypervisor's first tick"
        return Group(Text(f"memcoord top  {watched.place.name}  {said} ...   {HELP[:7]}"))
    foot = [Text(HELP[: console.width], style="dim")] if looking.has_help else []
    height = max(console.height - 1 - len(foot), 1)
    lines = screen(frame, console.width, height, watched.ended)
    for line in lines:
        if looking.chosen and line.plain.startswith(f"{looking.chosen} "):
            line.stylize("reverse", 0, len(looking.chosen))
    if looking.is_paused:
        lines[0] = Text("PAUSED  ", style="bold yellow").append_text(lines[0])
        lines[0].truncate(console.width)
    return Group(*(encodable(line, console.encoding) for line in lines), *foot)


@contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits for a key; the terminal is as it was after the block, however it ends.

    SIGTERM and SIGHUP end the block as Ctrl-C does.
    """
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    def read_keys(wait_s: float) -> bytes:
        if not select.select([fd], [], [], wait_s)[0]:
            return b""
        return os.read(fd, KEY_BYTES) or b"q"  # the terminal is gone

    old = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setcbreak(fd)
        yield read_keys
    except KeyboardInterrupt:
        pass
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        for number, handler in old.items():
            signal.signal(number, handler)
