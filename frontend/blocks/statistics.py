"""What a block device has done, as its thread counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockStatistics:
    """Counters of a ``BlockDevice``; all but the last three only rise. A block is 4 KiB."""

    puts: int
    """Blocks written that tmem took."""
    refused: int
    """Blocks written that tmem refused: mm_target, quota, frozen, no memory. The file has them."""
    late: int
    """Blocks written that went to the file because the hypervisor did not answer in time."""
    tmem_reads: int
    file_reads: int
    zero_reads: int
    """Blocks read that nobody had written, or that were discarded."""
    file_writes: int
    discards: int
    """Blocks with a copy that a client gave up."""
    lost: int
    """Blocks that became unreadable: the file failed, or tmem lost a page."""
    requests: int
    """NBD requests that were answered."""
    errors: int
    """Requests that were answered with an error."""
    accepted: int
    """Connections."""
    turned_away: int
    """Connections for which there was no place."""
    broken_off: int
    """Connections that were closed because of what the client sent."""
    tmem_blocks: int
    """Blocks whose copy is in tmem, now."""
    file_blocks: int
    """Blocks whose copy is in the file, now."""
    connections: int
    """Clients, now."""
