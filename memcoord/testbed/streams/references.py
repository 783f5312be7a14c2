"""References in parts: as many as wanted, a bounded number of them in memory at once.

Owns: the type ``References``, the ways to make longer ones of shorter ones, and how much is held.
References are made part by part whenever somebody reads them, always the same ones. What is short
is made once and held (``kept``), so that reading it costs nothing. A part is a pair of arrays,
(pages, written to), that its reader must not write to.
Rules: whoever makes parts makes them no longer than ``PART_REFERENCES``, unless they lie in arrays
that are held anyway. How long parts are says nothing: readers cut them as they like (``Cursor``).
Called by ``memcoord.testbed.streams``; the guests and the simulator read through ``Stream``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypervisor.public.errors import ConfigError

Pages = NDArray[np.int32]
Flags = NDArray[np.uint8]
Part = tuple[Pages, Flags]

#: References made at once.
PART_REFERENCES = 1 << 16
#: References of which the arrays are held: 40 MiB. Longer ones are made again whenever read.
HELD_REFERENCES = 1 << 23
#: References that anybody may ask for as one array: 320 MiB.
WHOLE_MAX = 1 << 26


@dataclass(frozen=True, eq=False)
class References:
    """``length`` references in order; ``parts()`` makes them anew, from the first."""

    length: int
    parts: Callable[[], Iterator[Part]]

    def __len__(self) -> int:
        return self.length

    def whole(self) -> Part:
        """All of them in one piece; ConfigError where they are too many."""
        if self.length > WHOLE_MAX:
            what = f"{self.length} references are too many to look at at once, at most {WHOLE_MAX}"
            raise ConfigError("workload", what)
        return joined([*self.parts()])


class Cursor:
    """A reader of references, from the first one on."""

    def __init__(self, references: References) -> None:
        self._parts, self._left = references.parts(), len(references)
        self._pages, self._writes = nothing()

    def take(self, most: int) -> Part:
        """The next references: at most ``most``, none only at the end.

        ConfigError when they end too early: they lie in a file, and that is another now.
        """
        while self._left and not len(self._pages):
            part = next(self._parts, None)
            if part is None:
                raise ConfigError("workload", "its file was changed while it was read")
            self._pages, self._writes = part
        most = min(most, self._left)
        self._left -= len(self._pages[:most])
        taken = self._pages[:most], self._writes[:most]
        self._pages, self._writes = self._pages[most:], self._writes[most:]
        return taken


def nothing() -> Part:
    """No reference."""
    return np.empty(0, np.int32), np.empty(0, np.uint8)


def held(pages: NDArray[np.integer], writes: NDArray[np.integer]) -> References:
    """References in arrays."""
    part = pages.astype(np.int32, copy=False), writes.astype(np.uint8, copy=False)
    return References(len(pages), lambda: iter((part,)) if len(part[0]) else iter(()))


def kept(references: References) -> References:
    """The same, held where they are short."""
    short = len(references) <= HELD_REFERENCES
    return held(*references.whole()) if short else references


def counted(parts: Callable[[], Iterator[Part]], first: Iterator[Part] | None = None) -> References:
    """References of which nobody knows how many there are: all are made once to count them.

    ``first``: the same ones, for that one time.
    """
    found: list[Part] | None = []
    length = 0
    for part in parts() if first is None else first:
        length += len(part[0])
        if found is not None:
            found.append(part)
            found = found if length <= HELD_REFERENCES else None
    return References(length, parts) if found is None else held(*joined(found))


def chained(pieces: Sequence[References]) -> References:
    """One after the other."""

    def parts() -> Iterator[Part]:
        for piece in pieces:
            yield from piece.parts()

    return References(sum(map(len, pieces)), lambda: gathered(parts()))


def cyclic(references: References, length: int, start: int = 0) -> References:
    """``length`` references: these again and again, the first time from number ``start`` on."""
    if 0 < 2 * len(references) <= PART_REFERENCES:
        pages, writes = references.whole()
        times = PART_REFERENCES // len(pages)
        references = held(np.tile(pages, times), np.tile(writes, times))

    def parts() -> Iterator[Part]:
        skip, left = start, length
        while left > 0:
            cursor, ahead = Cursor(references), len(references)
            while ahead > 0 and left > 0:
                pages, writes = cursor.take(ahead)
                ahead -= len(pages)
                begin = min(skip, len(pages))
                skip -= begin
                taken = pages[begin : begin + left], writes[begin : begin + left]
                left -= len(taken[0])
                if len(taken[0]):
                    yield taken

    return References(length if len(references) else 0, parts)


def sweep(first: int, count: int, *, write: bool) -> References:
    """``count`` pages from ``first`` on, one after the other."""

    def parts() -> Iterator[Part]:
        for begin, end in spans(count):
            yield swept(first + begin, end - begin, write=write)

    return References(count, parts)


def spans(count: int, size: int = 1) -> Iterator[tuple[int, int]]:
    """(begin, end) of the parts of ``count`` pieces, each of ``size`` references."""
    each = max(PART_REFERENCES // size, 1)
    for begin in range(0, count, each):
        yield begin, min(begin + each, count)


def gathered(parts: Iterable[Part]) -> Iterator[Part]:
    """The same references; short parts are put together."""
    waiting: list[Part] = []
    count = 0
    for part in parts:
        if not waiting and len(part[0]) >= PART_REFERENCES // 2:
            yield part
            continue
        waiting.append(part)
        count += len(part[0])
        if count >= PART_REFERENCES // 2:
            yield joined(waiting)
            waiting, count = [], 0
    if waiting:
        yield joined(waiting)


def merged_parts(parts: Iterable[Part]) -> Iterator[Part]:
    """``merged`` over the borders of parts."""
    last_page, last_write = nothing()
    for pages, writes in parts:
        pages, writes = merged(
            np.concatenate((last_page, pages)), np.concatenate((last_write, writes))
        )
        if len(pages) > 1:
            yield pages[:-1], writes[:-1]
        last_page, last_write = pages[-1:], writes[-1:]
    if len(last_page):
        yield last_page, last_write


def merged(pages: Pages, writes: Flags) -> Part:
    """Runs of one page as one reference, written if any of the run was: LRU sees no difference."""
    if len(pages) == 0:
        return pages, writes
    first = np.flatnonzero(np.concatenate(([True], pages[1:] != pages[:-1])))
    return pages[first], np.maximum.reduceat(writes, first)


def joined(parts: Sequence[Part]) -> Part:
    """Several parts as one."""
    if len(parts) < 2:
        return parts[0] if parts else nothing()
    pages, writes = zip(*parts, strict=True)
    return np.concatenate(pages), np.concatenate(writes)


def swept(first: int, count: int, *, write: bool) -> Part:
    """One part of ``sweep``."""
    return (np.arange(first, first + count, dtype=np.int32), np.full(count, write, dtype=np.uint8))


def forked(rng: np.random.Generator, draws: int = 0) -> np.random.Generator:
    """Another generator, as ``rng`` will be when ``random`` has given ``draws`` numbers."""
    bits = np.random.PCG64()
    bits.state = rng.bit_generator.state  # type: ignore[assignment]
    if draws:
        bits.advance(draws)
    return np.random.Generator(bits)


def skewed(
    rng: np.random.Generator,
    sizes: Callable[[int, int], NDArray[np.integer] | int],
    count: int,
    written: float,
) -> References:
    """``count`` references; number i is to a page below ``sizes(begin, end)[i - begin]``.

    Low pages are likelier: half of all in the lowest eighth. A share ``written`` are writes. They
    are drawn as ``rng`` would draw all pages at once, and then all writes.
    """
    start, later = forked(rng), forked(rng, count)

    def parts() -> Iterator[Part]:
        place, write = forked(start), forked(later)
        for begin, end in spans(count):
            drawn = place.random(end - begin) ** 3
            pages = (sizes(begin, end) * drawn).astype(np.int32)
            yield pages, (write.random(end - begin) < written).astype(np.uint8)

    return References(count, parts)
