"""Replay a trace over real memory and check every byte that comes back.

Owns: the version of each page, hence what the page must hold, and the verdict. Every reference is
checked against the page's last version before anything else happens to it; a written page gets the
next version. A page that tmem or the swap file lost, mixed up or returned old is found at its next
reference, down to the word. Runs in the domain's process; never imports numba.
"""

from __future__ import annotations

from array import array
from typing import Protocol

import msgspec

from hypervisor.public.errors import MemcoordError
from testbed.page_trace import PageTrace

#: What the pages of a program's file hold before anything runs.
PROGRAM_VERSION = 1


class GuestConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a domain's process is told; a JSON file in the run directory.

    ``directory`` holds the hypervisor's sockets. ``number`` (1 and above) tells the domain's pages
    from those of every other. Without ``tmem`` the guest swaps to disk only.
    """

    directory: str
    name: str
    number: int
    trace: str
    repeat: int
    resident_frames: int
    swap_file: str
    tmem: bool = True
    program_file: bool = False


class GuestResult(msgspec.Struct, frozen=True):
    """What a domain's process answers, one line of JSON on its stdout."""

    references: int
    faults: int
    tmem_hits: int
    swap_ins: int
    swap_outs: int
    failed_puts: int
    pages_verified: int
    run_s: float
    file_reads: int = 0


class WrongContent(MemcoordError):
    """A page came back with other bytes than were written to it."""

    def __init__(self, domain: str, page: int, version: int, word: int) -> None:
        self.domain, self.page, self.version, self.word = domain, page, version, word
        super().__init__(
            f"wrong content: domain {domain}, page {page}, version {version}, "
            f"first wrong byte in {word * 8}..{word * 8 + 7}"
        )


class Memory(Protocol):
    """What holds the pages: ``frontend.manager.GuestMemory``, or a fake."""

    def access(self, page: int, write: bool) -> int:
        """The frame that holds ``page`` until the next call; ``write``: it will be written to."""


class Content(Protocol):
    """What fills and checks pages: ``testbed._loops.lib``."""

    def mc_content_fill(self, address: int, domain: int, page: int, version: int) -> None:
        """Write the content of a version of a page."""

    def mc_content_check(self, address: int, domain: int, page: int, version: int) -> int:
        """The index of the first wrong word, or -1."""


class Replay:
    """One domain's workload: ``run`` once. ``address_of`` frame f is ``base + f * 4096``."""

    def __init__(
        self,
        trace: PageTrace,
        memory: Memory,
        content: Content,
        *,
        name: str,
        number: int,
        base_address: int,
    ) -> None:
        self.pages_verified = 0
        self._trace = trace
        self._memory = memory
        self._content = content
        self._name = name
        self._number = number
        self._base = base_address
        self._versions = array("Q", bytes(8 * trace.page_count))
        for page in trace.program:
            self._versions[page] = PROGRAM_VERSION

    def run(self, repeat: int) -> None:
        """Replay the trace ``repeat`` times; WrongContent at the first wrong byte."""
        for _ in range(repeat):
            self._replay()

    def _replay(self) -> None:
        # The hot loop: about a microsecond per reference, so everything it needs is a local.
        access, versions = self._memory.access, self._versions
        fill, check = self._content.mc_content_fill, self._content.mc_content_check
        number, base = self._number, self._base
        verified = 0
        for page, written in zip(self._trace.pages, self._trace.writes, strict=True):
            version = versions[page]
            # A page nobody wrote yet gets its first version now, whatever the reference is.
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
