"""The kinds of workload that a scenario can give a domain.

Owns: one frozen struct per kind (its ``kind`` in the file is the tag), their bounds;
``programs`` beside it has the kind that runs a real program.
``memcoord.testbed.streams`` makes the references of a workload. Sizes are those of a laptop: a
vertex, a rating or a row stands for a whole object of a Java heap, so that a few megabytes behave
as gigabytes do.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from hypervisor.public.units import FRAME_BYTES
from memcoord.testbed.applications.shipped import OURS
from memcoord.testbed.scenarios.programs import ProgramWorkload
from memcoord.testbed.scenarios.sizes import Size, Wish
from memcoord.testbed.scenarios.trace_files import (
    SHIPPED_BLOCK_TRACES,
    SHIPPED_TRACES,
    TraceForm,
    check_file,
)
from memcoord.testbed.scenarios.virtual_machines import MachineWorkload

PAGES_MAX = 1 << 22
REFERENCES_MAX = 1 << 32
#: Edges of a graph, which its program holds.
EDGES_MAX = 1 << 25
#: Lulls and bursts of a program, which it draws beforehand.
TURNS_MAX = 1 << 24
REPEAT_MAX = 10_000

Phase = Annotated[float, Meta(ge=0, lt=1, description="of a round")]
Repeats = Annotated[int, Meta(ge=1, le=REPEAT_MAX)]
References = Annotated[int, Meta(ge=1, le=REFERENCES_MAX, description="references")]
Run = Annotated[int, Meta(ge=100, le=REFERENCES_MAX, description="references")]
Rows = Annotated[int, Meta(ge=1, le=1 << 22)]
RecordBytes = Annotated[int, Meta(ge=1, le=FRAME_BYTES, description="bytes")]
PauseS = Annotated[float, Meta(ge=0, le=60.0, description="seconds")]
Small = Annotated[int, Meta(ge=1, le=1024)]

_OF_KIND: dict[str, Any] = {"forbid_unknown_fields": True, "tag_field": "kind"}
_STRICT: dict[str, Any] = {"frozen": True, **_OF_KIND}


class PageTraceWorkload(TraceForm, frozen=True, **_OF_KIND, tag="page-trace"):
    """Replay a page-reference trace ``repeat`` times: a shipped one, or a file of one's own.

    With ``program_file`` the pages of the program itself are mapped from a file and cached in
    cleancache; without, every page is anonymous and is swapped. Rounds begin at ``phase``, a
    fraction of the trace.
    """

    trace: str  # sort, cc1, sqlite, or a file
    resident: Size  # RAM for its pages as it boots; the rest of ``ram`` is its kernel's
    repeat: Repeats = 1  # rounds
    program_file: bool = False  # pages that are only executed are a file, cached in cleancache
    phase: Phase = 0.0  # where in the trace a round begins

    def wishes(self) -> Iterator[Wish]:
        """Conditions beside the bounds of the fields."""
        problem = check_file(self.trace, SHIPPED_TRACES)
        yield "trace", not problem, problem
        yield from self.form_wishes()


class BlockTraceWorkload(TraceForm, frozen=True, **_OF_KIND, tag="block-trace"):
    """Read file pages in the order of a shipped trace or of a file of one's own.

    All pages are clean and cached in cleancache. ``references`` 0 is the whole file.
    """

    file: str  # cscope, multi3, sprite, nt, or a file
    resident: Size  # RAM for its pages as it boots; the rest of ``ram`` is its kernel's
    # In all; 0: the whole file.
    references: Annotated[int, Meta(ge=0, le=REFERENCES_MAX, description="references")] = 0
    repeat: Repeats = 1  # rounds

    def wishes(self) -> Iterator[Wish]:
        """Conditions beside the bounds of the fields."""
        problem = check_file(self.file, SHIPPED_BLOCK_TRACES)
        yield "file", not problem, problem
        yield from self.form_wishes()


class UsememWorkload(msgspec.Struct, **_STRICT, tag="usemem"):
    """Allocate ``step``, write all that is allocated ``sweeps`` times; again, up to ``most``."""

    step: Size  # allocated at once
    most: Size  # allocated in the end
    resident: Size  # RAM for its pages as it boots; the rest of ``ram`` is its kernel's
    sweeps: Repeats = 2  # times all is written, after each step

    def wishes(self) -> Iterator[Wish]:
        """Conditions beside the bounds of the fields."""
        yield _pages("step", self.step)
        yield _pages("most", self.most)
        yield "most", self.most >= self.step, "must not be below step"


class GraphWorkload(msgspec.Struct, **_STRICT, tag="graph-analytics"):
    """PageRank over an R-MAT graph of ``vertices`` (a power of two) made from the seed."""

    resident: Size  # RAM for its pages as it boots; the rest of ``ram`` is its kernel's
    vertices: Annotated[int, Meta(ge=2, le=1 << 20)] = 1 << 14  # a power of two
    degree: Small = 8  # edges per vertex
    iterations: Repeats = 4  # of PageRank
    vertex_bytes: RecordBytes = 256  # an object of the program for each
    edge_bytes: RecordBytes = 32  # the same

    def wishes(self) -> Iterator[Wish]:
        """Conditions beside the bounds of the fields."""
        yield "vertices", self.vertices & (self.vertices - 1) == 0, "must be a power of two"
        yield _number("degree", self.vertices * self.degree, EDGES_MAX, what="edges")
        references = 2 * self.vertices * (self.degree + 1) * self.iterations
        yield _number("iterations", references, REFERENCES_MAX, what="references")


class AnalyticsWorkload(msgspec.Struct, **_STRICT, tag="in-memory-analytics"):
    """Alternating least squares over Zipf ratings from the seed; the program runs ``runs`` times.

    ``pause_s`` lies between two runs; each loads its ratings anew.
    """

    resident: Size  # RAM for its pages as it boots; the rest of ``ram`` is its kernel's
    users: Rows = 8192  # rows of one matrix of factors
    items: Rows = 4096  # rows of the other
    ratings: Rows = 1 << 16  # drawn by Zipf's law
    iterations: Repeats = 2  # in each run
    runs: Repeats = 2  # of the program, one after the other
    pause_s: PauseS = 0.5  # between two runs
    row_bytes: RecordBytes = 512  # one row of factors
    rating_bytes: RecordBytes = 32  # one rating

    def wishes(self) -> Iterator[Wish]:
        """Conditions beside the bounds of the fields."""
        references = 4 * (self.ratings + self.users + self.items) * self.iterations * self.runs
        yield _number("iterations", references, REFERENCES_MAX, what="references")


class LoopWorkload(msgspec.Struct, **_STRICT, tag="loop"):
    """Read ``size`` from one end to the other, ``repeat`` times: the worst case of LRU.

    Rounds begin at ``phase``, a fraction of ``size``.
    """

    size: Size  # what is read
    resident: Size  # RAM for its pages as it boots; the rest of ``ram`` is its kernel's
    repeat: Repeats = 10  # rounds
    phase: Phase = 0.0  # where in ``size`` a round begins

    def wishes(self) -> Iterator[Wish]:
        """Conditions beside the bounds of the fields."""
        yield _pages("size", self.size)


class JunkWorkload(msgspec.Struct, **_STRICT, tag="junk"):
    """A liar: writes every page of ``size`` once and never reads one again.

    Between two such writes come ``every`` references to ``hot`` memory it really uses.
    """

    size: Size  # what is written
    resident: Size  # RAM for its pages as it boots; the rest of ``ram`` is its kernel's
    hot: Size = Size(256 * FRAME_BYTES)  # what it really uses
    every: Small = 16  # references to ``hot`` between two writes

    def wishes(self) -> Iterator[Wish]:
        """Conditions beside the bounds of the fields."""
        yield _pages("size", self.size)
        yield _pages("hot", self.hot)


class BurstsWorkload(msgspec.Struct, **_STRICT, tag="bursts"):
    """``base`` memory most of the time, and bursts of up to ``most``.

    How long a burst and a lull last (on average ``on`` and ``off`` references) and how much a burst
    wants follow Pareto laws of ``shape``: a few are very large.
    """

    base: Size  # its memory in a lull
    most: Size  # its memory in the largest burst
    resident: Size  # RAM for its pages as it boots; the rest of ``ram`` is its kernel's
    references: References = 300_000  # in all
    on: Run = 10_000  # mean length of a burst
    off: Run = 30_000  # mean length of a lull
    # Of the Pareto laws; smaller: a few bursts are longer still.
    shape: Annotated[float, Meta(gt=1, le=sys.float_info.max)] = 1.5

    @property
    def turns(self) -> int:
        """Lulls, each with a burst, that are enough for any draw: a length that follows a Pareto
        law is at least its mean times (shape - 1) / shape."""
        least = (self.on + self.off) * (self.shape - 1) / self.shape
        return int(self.references / least) + 1

    def wishes(self) -> Iterator[Wish]:
        """Conditions beside the bounds of the fields."""
        yield _number("shape", self.turns, TURNS_MAX, what="lulls and bursts it may make")
        yield _pages("base", self.base)
        yield _pages("most", self.most)
        yield "most", self.most >= self.base, "must not be below base"


class DemandSeriesWorkload(msgspec.Struct, **_STRICT, tag="demand-series"):
    """The working set follows a real VM's: a day of VM ``vm`` of the shipped excerpt ``source``.

    Its largest sample is ``peak``; ``references`` are spread evenly over ``samples`` from
    ``start`` on.
    """

    VMS: ClassVar[int] = 8
    SAMPLES: ClassVar[int] = 288

    vm: Annotated[int, Meta(ge=0, le=VMS - 1)]  # which VM of the excerpt
    peak: Size  # its largest sample
    resident: Size  # RAM for its pages as it boots; the rest of ``ram`` is its kernel's
    references: References = 300_000  # in all
    start: Annotated[int, Meta(ge=0, le=SAMPLES - 1)] = 0  # the first sample
    samples: int = 288  # how many
    # The excerpt of real VMs' demand.
    source: Literal["bitbrains", "bitbrains-day2", "google"] = "bitbrains"

    def wishes(self) -> Iterator[Wish]:
        """Conditions beside the bounds of the fields."""
        yield _pages("peak", self.peak)
        yield _number("samples", self.samples, self.SAMPLES - self.start)


class QuietWorkload(msgspec.Struct, **_STRICT, tag="quiet"):
    """A tenant that does little: ``references`` to ``size`` memory, ``pauses`` times a pause."""

    size: Size  # its memory
    resident: Size  # RAM for its pages as it boots; the rest of ``ram`` is its kernel's
    references: References = 20_000  # in all
    pauses: int = 20  # spread among them
    pause_s: PauseS = 0.1  # each

    def wishes(self) -> Iterator[Wish]:
        """Conditions beside the bounds of the fields."""
        yield _pages("size", self.size)
        yield _number("pauses", self.pauses, min(self.references, REPEAT_MAX), least=0)


_Traces = PageTraceWorkload | BlockTraceWorkload | DemandSeriesWorkload
_Programs = UsememWorkload | GraphWorkload | AnalyticsWorkload | LoopWorkload
_Streams = _Traces | _Programs | JunkWorkload | BurstsWorkload | QuietWorkload
Workload = _Streams | ProgramWorkload | MachineWorkload
#: Kinds that run a real program: they take the time they take, and cannot be simulated.
REAL = (ProgramWorkload, MachineWorkload)


def title_of(workload: Workload) -> str:
    """The name in reports: the trace, the user's file, the program or the kind."""
    if isinstance(workload, PageTraceWorkload):
        return Path(workload.trace).name
    if isinstance(workload, BlockTraceWorkload) and workload.file not in SHIPPED_BLOCK_TRACES:
        return Path(workload.file).name
    if isinstance(workload, ProgramWorkload):
        return Path(workload.argv[0].removeprefix(OURS)).name
    if isinstance(workload, MachineWorkload):
        return Path(workload.run[0]).name
    return str(workload.__struct_config__.tag)


def files_of(workload: Workload) -> list[str]:
    """Files of the user that the workload's process reads."""
    named = (getattr(workload, key, "") for key in ("trace", "file"))
    return [str(Path(name).absolute()) for name in named if name and Path(name).is_file()]


def _pages(key: str, size: Size) -> Wish:
    return key, 0 < size.frames <= PAGES_MAX, f"must be 1 to {PAGES_MAX} pages"


def _number(key: str, value: int, most: int, *, least: int = 1, what: str = "") -> Wish:
    wanted = f"must be {least} to {most}"
    return key, least <= value <= most, f"{what} {wanted}, not {value}" if what else wanted
