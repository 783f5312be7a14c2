"""Replay a stream over real memory and check every byte that comes back.

Owns: the version of each page, hence what the page must hold, and the verdict. Every reference is
checked against the page's last version before anything else happens to it; a written page gets the
next version. A page that tmem or the swap file lost, mixed up or returned old is found at its next
reference, down to the word. Runs in the domain's process; never imports numba.
"""

import itertools
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Protocol, Self

import msgspec
import numpy as np

from hypervisor.public.errors import MemcoordError
from memcoord.testbed.scenarios.workloads import Workload, decode_size
from memcoord.testbed.streams import Stream

#: Version of the pages of a program's file before the program runs.
PROGRAM_VERSION = 1
#: References turned into Python numbers at a time; all of them would be a hundred megabytes.
CHUNK_REFERENCES = 1 << 16
#: A domain that pauses looks at its target this often.
NAP_S = 0.02


class GuestConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The orders of a domain's process; a JSON file in the run directory.

    ``directory`` holds the hypervisor's sockets. ``number`` (1 and above) tells the domain's pages
    from those of every other. ``seed`` makes its stream. Without ``tmem`` the guest swaps to disk
    only. ``token`` lets it attach, once.
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

    def encode(self) -> bytes:
        """As JSON, indented."""
        return msgspec.json.format(msgspec.json.encode(self, enc_hook=int), indent=2) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """From JSON; ValueError when it is not one."""
        return msgspec.json.decode(data, type=cls, dec_hook=decode_size)


class GuestResult(msgspec.Struct, frozen=True):
    """The answer of a domain's process, one line of JSON on its stdout.

    ``begin_s`` is the ``time.monotonic`` of its first reference.
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

    def access(self, page: int, write: bool) -> int:
        """The frame that holds ``page`` until the next call; ``write``: it will be written to."""

    def balance(self) -> None:
        """Follow the target while nothing is referenced."""


class Content(Protocol):
    """Fills and checks pages: ``memcoord.testbed.guests._content.lib``, or a fake."""

    def mc_content_fill(self, address: int, domain: int, page: int, version: int) -> None:
        """Write the content of a version of a page."""

    def mc_content_check(self, address: int, domain: int, page: int, version: int) -> int:
        """The index of the first wrong word, or -1."""


class Replay:
    """One domain's workload. ``address_of`` frame f is ``base_address + f * 4096``.

    ``sleep`` spends the pauses.
    """

    def __init__(
        self,
        stream: Stream,
        memory: Memory,
        content: Content,
        *,
        name: str,
        number: int,
        base_address: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.pages_verified = 0
        self._stream, self._memory, self._content = stream, memory, content
        self._name, self._number, self._base = name, number, base_address
        self._sleep = sleep
        self._versions = array("Q", bytes(8 * stream.page_count))
        for page in np.flatnonzero(stream.program).tolist():
            self._versions[page] = PROGRAM_VERSION

    def run(self) -> None:
        """Replay the stream; WrongContent at the first wrong byte."""
        for begin, end, pause_s in chunks(self._stream):
            self._pause(pause_s)
            self._replay(begin, end)

    def _replay(self, begin: int, end: int) -> None:
        # The hot loop: about a microsecond per reference, so everything it needs is a local.
        access, versions = self._memory.access, self._versions
        fill, check = self._content.mc_content_fill, self._content.mc_content_check
        number, base = self._number, self._base
        verified = 0
        pages = self._stream.pages[begin:end].tolist()
        writes = self._stream.writes[begin:end].tolist()
        for page, written in zip(pages, writes, strict=True):
            version = versions[page]
            # A page without a version gets its first one now, also when the reference reads it.
            writing = written or not version
            address = base + (access(page, bool(writing)) << 12)
            if version:
                word = check(address, number, page, version)
                if word >= 0:
                    raise WrongContent(self._name, page, version, word)
                verified += 1
            if writing:
                versions[page] = version + 1
                fill(address, number, page, version + 1)
        self.pages_verified += verified

    def _pause(self, pause_s: float) -> None:
        naps = int(pause_s / NAP_S)
        for _ in range(naps):
            self._sleep(NAP_S)
            self._memory.balance()
        self._sleep(max(pause_s - naps * NAP_S, 0.0))


def chunks(stream: Stream) -> Iterator[tuple[int, int, float]]:
    """Pieces (begin, end, pause before in seconds) of at most CHUNK_REFERENCES, in order."""
    pauses = dict(stream.pauses)
    whole = range(0, len(stream), CHUNK_REFERENCES)
    places = sorted({*whole, *pauses, len(stream)})
    for begin, end in itertools.pairwise(places):
        yield begin, end, pauses.get(begin, 0.0)
