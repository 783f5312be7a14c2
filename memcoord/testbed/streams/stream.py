"""A stream: the pages one domain's programs refer to, in order.

Owns: the type both worlds replay, and the few operations every generator shares. Numpy only: a
domain's process makes its stream by itself, and the simulator makes the same one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pages = NDArray[np.int32]
Flags = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Stream:
    """References in order: ``pages[i]`` was written when ``writes[i]`` is 1, else read.

    ``pauses`` are (i, seconds): so long the domain does nothing before reference i; i rises.
    """

    name: str
    pages: NDArray[np.int32]  # 0..page_count-1
    writes: NDArray[np.uint8]
    page_count: int
    program: NDArray[np.bool_]  # per page: of a program's file (cleancache), else anonymous
    pauses: tuple[tuple[int, float], ...] = ()
    compute_ns: int = 1000  # CPU time per reference that hits

    def __len__(self) -> int:
        return len(self.pages)

    def validate(self) -> None:
        """ValueError when the parts do not fit together."""
        places = [place for place, _ in self.pauses]
        wrong = {
            "no references": len(self.pages) == 0,
            "a write flag per reference": len(self.writes) != len(self.pages),
            "a program flag per page": len(self.program) != self.page_count,
            "a page out of range": len(self.pages) > 0
            and not 0 <= int(self.pages.min()) <= int(self.pages.max()) < self.page_count,
            "pauses out of order": places != sorted(set(places)),
            "a pause after the end": any(not 0 <= place < len(self.pages) for place in places),
        }
        for what, holds in wrong.items():
            if holds:
                raise ValueError(f"stream {self.name}: {what}")


def anonymous(
    name: str,
    pages: NDArray[np.integer],
    writes: NDArray[np.integer],
    page_count: int,
    pauses: tuple[tuple[int, float], ...] = (),
) -> Stream:
    """A stream of a program whose pages are all its own."""
    references = pages.astype(np.int32, copy=False), writes.astype(np.uint8, copy=False)
    return Stream(name, *references, page_count, np.zeros(page_count, dtype=np.bool_), pauses)


def merged(pages: Pages, writes: Flags) -> tuple[Pages, Flags]:
    """Runs of one page as one reference, written if any of the run was: LRU sees no difference."""
    if len(pages) == 0:
        return pages, writes
    first = np.flatnonzero(np.concatenate(([True], pages[1:] != pages[:-1])))
    return pages[first], np.maximum.reduceat(writes, first)


def joined(parts: Sequence[tuple[Pages, Flags]]) -> tuple[Pages, Flags]:
    """Several pieces of a stream as one."""
    pages, writes = zip(*parts, strict=True)
    return np.concatenate(pages), np.concatenate(writes)


def swept(first: int, count: int, *, write: bool) -> tuple[Pages, Flags]:
    """``count`` pages from ``first`` on, one after the other."""
    return (np.arange(first, first + count, dtype=np.int32), np.full(count, write, dtype=np.uint8))


def skewed(rng: np.random.Generator, sizes: NDArray[np.integer]) -> Pages:
    """For each size a page below it, low ones likelier: half of all in the lowest eighth."""
    return (sizes * rng.random(len(sizes)) ** 3).astype(np.int32)
