"""Replay a stream over real memory and check every page that comes back.

Owns: the program of a domain (``memcoord/testbed/guests/abi/program.h``), what it must find in its
pages, and the verdict. A reference to a page that had left memory is checked to the last word, any
other by the word that was written last; a written page gets the next version. So a page that tmem
or the swap file lost, mixed up or returned old is found at its next reference. After each reference
the program works as long as the stream says, on the CPU. Runs in the domain's process, without a
line of Python for each reference; never imports numba. A stream that is too long to hold is made
part by part between the references; how it is cut changes nothing that happens to a page.
"""

import itertools
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol, Self

import msgspec

from hypervisor.public.errors import MemcoordError
from memcoord.testbed.guests._content import ffi, lib
from memcoord.testbed.scenarios.sizes import decode_size
from memcoord.testbed.scenarios.workloads import Workload
from memcoord.testbed.streams import Stream
from memcoord.testbed.streams.references import PART_REFERENCES, Cursor, Flags, Pages

#: Version of the pages of a program's file before the program runs, as program.h says.
PROGRAM_VERSION = 1
#: A domain that pauses looks at its target this often.
NAP_S = 0.02


class GuestConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The orders of a domain's process; a JSON file in the run directory.

    ``directory`` holds the hypervisor's sockets. ``number`` (1 and above) tells the domain's pages
    from those of every other. ``seed`` makes its stream. Without ``tmem`` the guest swaps to disk
    only. ``token`` lets it attach, once. After each of so many references in ``holds`` it waits at
    a gate. A virtual machine has between ``ram_min_frames`` and ``maxmem_frames``.
    """

    directory: str
    name: str
    number: int
    workload: Workload
    seed: int
    boot_frames: int
    swap_file: str
    tmem: bool = True
    token: str = ""
    holds: tuple[int, ...] = ()
    maxmem_frames: int = 0
    ram_min_frames: int = 0

    def encode(self) -> bytes:
        """As JSON, indented."""
        return msgspec.json.format(msgspec.json.encode(self, enc_hook=int), indent=2) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """From JSON; ValueError when it is not one."""
        return msgspec.json.decode(data, type=cls, dec_hook=decode_size)


class GuestResult(msgspec.Struct, frozen=True):
    """The answer of a domain's process, one line of JSON on its stdout.

    ``begin_s`` is the ``time.monotonic`` of its first reference; ``held_s``, what it stood at
    gates since, is no part of ``run_s``.
    """

    references: int
    faults: int
    tmem_hits: int
    swap_ins: int
    swap_outs: int
    failed_puts: int
    pages_verified: int
    run_s: float
    begin_s: float
    held_s: float = 0.0
    file_reads: int = 0


class WrongContent(MemcoordError):
    """A page came back with bytes that were never written to it."""

    def __init__(self, domain: str, page: int, version: int, word: int) -> None:
        self.domain, self.page, self.version, self.word = domain, page, version, word
        super().__init__(
            f"wrong content: domain {domain}, page {page}, version {version}, "
            f"first wrong byte in {word * 8}..{word * 8 + 7}"
        )


class Memory(Protocol):
    """The holder of the pages: ``frontend.paging.manager.GuestMemory``, or a fake."""

    def run(
        self, pages: Any, writes: Any, use: int, context: int, *, more: bool
    ) -> tuple[int, int]:
        """Refer to pages in order and call ``use``; references made, and what ended them or 0.

        ``more``: the next call goes on with the same stream.
        """

    def balance(self) -> None:
        """Follow the target while nothing is referenced."""


class Replay:
    """One domain's workload.

    ``number`` tells its pages from those of every other domain. After each reference the program
    works for ``compute_ns`` of its CPU. ``sleep`` spends the pauses. After each of so many
    references in ``holds`` it waits for ``hold``; ``held_s`` is what it has waited so.
    """

    def __init__(
        self,
        stream: Stream,
        memory: Memory,
        *,
        name: str,
        number: int,
        compute_ns: int = 0,
        holds: Collection[int] = (),
        hold: Callable[[int], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._memory, self._name, self._sleep = stream, memory, name, sleep
        self._holds, self._hold, self._clock = holds, hold, clock
        self.held_s = 0.0
        self._program = ffi.new("struct mc_program *")
        self._program.domain = number
        self._program.work = lib.mc_program_steps(compute_ns) if compute_ns else 0

    @property
    def pages_verified(self) -> int:
        """References so far to a page that had content."""
        return int(self._program.verified)

    def run(self) -> None:
        """Replay the stream; WrongContent at the first wrong byte."""
        use = int(ffi.cast("uintptr_t", ffi.addressof(lib, "mc_program_use")))
        program = int(ffi.cast("uintptr_t", self._program))
        for begin, pause_s, pages, writes, more in pieces(self._stream, self._holds):
            if begin in self._holds:
                since_s = self._clock()
                self._hold(begin)
                self.held_s += self._clock() - since_s
            if pause_s:
                self._pause(pause_s)
            _, wrong = self._memory.run(pages, writes, use, program, more=more)
            if wrong:
                found = self._program
                raise WrongContent(
                    self._name, found.wrong_page, found.wrong_version, found.wrong_word
                )

    def _pause(self, pause_s: float) -> None:
        naps = int(pause_s / NAP_S)
        for _ in range(naps):
            self._sleep(NAP_S)
            self._memory.balance()
        self._sleep(max(pause_s - naps * NAP_S, 0.0))


def pieces(
    stream: Stream, cuts: Collection[int] = (), most: int = PART_REFERENCES
) -> Iterator[tuple[int, float, Pages, Flags, bool]]:
    """The stream in pieces of at most ``most`` references, cut at the pauses and ``cuts``: (its
    first reference, pause before it in seconds, pages, writes, whether the next piece follows
    without a pause or cut)."""
    cursor, pauses, length = Cursor(stream.references), dict(stream.pauses), len(stream)
    inner = {cut for cut in cuts if cut < length}
    at = 0
    for begin, end in itertools.pairwise(sorted({0, *pauses, *inner, length})):
        pause_s = pauses.get(begin, 0.0)
        while at < end:
            first = at
            pages, writes = cursor.take(min(end - at, most))
            at += len(pages)
            yield first, pause_s, pages, writes, at < end
            pause_s = 0.0
