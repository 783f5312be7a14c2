"""What a guest's paging counts, and what it is given: types without any work of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class ProgramFile(Protocol):
    """The file that holds a program's pages. A ``SwapFile`` is read without Python."""

    def read(self, page: int, frame: memoryview) -> None:
        """Fill ``frame`` with a page of the file."""


@dataclass(frozen=True)
class GuestMemoryStatistics:
    """What a manager did so far. Counters count pages, if nothing else is said, and only rise."""

    references: int = 0
    faults: int = 0  # references to a page that was not resident
    first_touches: int = 0  # faults on a page never touched
    tmem_hits: int = 0  # faults served by tmem
    swap_ins: int = 0  # faults served by the swap file
    swap_outs: int = 0  # pages written to the swap file
    file_reads: int = 0  # faults served by the program's file
    puts: int = 0  # pages offered to tmem
    failed_puts: int = 0  # of those, anonymous ones that were refused
    moved: int = 0  # pages moved to another frame to empty an area
    stall_ns: int = 0  # time in faults that waited for tmem, the disk or a victim
    resident_frames: int = 0
    committed_frames: int = 0  # pages ever touched: resident, in tmem or on disk
    ahead: int = 0  # pages read from the swap file before they were asked for
    ahead_hits: int = 0  # of those, pages then used
    disk_reads: int = 0  # system calls on the swap file
    disk_writes: int = 0
