"""A stream: the pages one domain's programs refer to, in order.

Owns: the type both worlds replay. Numpy only: a domain's process makes its stream by itself, and
the simulator makes the same one. A stream has any number of references; ``references`` makes them
in parts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcoord.testbed.streams.references import Flags, Pages, References


@dataclass(frozen=True, eq=False)
class Stream:
    """What a domain's programs refer to.

    ``pauses`` are (i, seconds): so long the domain does nothing before reference i; i rises.
    """

    name: str
    references: References  # to pages 0..page_count-1
    page_count: int
    program: NDArray[np.bool_]  # per page: of a program's file (cleancache), else anonymous
    pauses: tuple[tuple[int, float], ...] = ()
    compute_ns: int = 1000  # CPU time per reference that hits

    def __len__(self) -> int:
        return len(self.references)

    @property
    def pages(self) -> Pages:
        """The page of every reference, at once; ConfigError where they are too many."""
        return self.references.whole()[0]

    @property
    def writes(self) -> Flags:
        """1 for every reference that writes, at once; ConfigError where they are too many."""
        return self.references.whole()[1]

    def validate(self) -> None:
        """ValueError when the parts do not fit together."""
        places = [place for place, _ in self.pauses]
        length, lowest, highest, fits = 0, 0, -1, True
        for pages, writes in self.references.parts():
            length += len(pages)
            fits &= len(pages) == len(writes)
            lowest = min(lowest, int(pages.min(initial=0)))
            highest = max(highest, int(pages.max(initial=-1)))
        wrong = {
            "no references": length == 0,
            "not as many references as it says": length != len(self),
            "a write flag per reference": not fits,
            "a program flag per page": len(self.program) != self.page_count,
            "a page out of range": lowest < 0 or highest >= self.page_count,
            "pauses out of order": places != sorted(set(places)),
            "a pause after the end": any(not 0 <= place < length for place in places),
        }
        for what, holds in wrong.items():
            if holds:
                raise ValueError(f"stream {self.name}: {what}")


def anonymous(
    name: str,
    references: References,
    page_count: int,
    pauses: tuple[tuple[int, float], ...] = (),
) -> Stream:
    """A stream of a program whose pages are all its own."""
    return Stream(name, references, page_count, np.zeros(page_count, dtype=np.bool_), pauses)
