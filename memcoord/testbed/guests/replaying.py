"""A domain's process: attach, hold a working set, replay a stream, answer in one line.

``python -P -m memcoord.testbed.guests.replaying CONFIG`` with a ``GuestConfig`` as JSON. Stands at
the gates of the start barrier (``gates``), then prints a ``GuestResult`` as one line of JSON on
stdout and exits with 0; on failure one line on stderr says why, exit 1. Ends at once when stdin
closes (its launcher is gone).
Imports neither numba nor zmq: a domain starts as fast as Python and numpy do.
"""

import sys
import time
from pathlib import Path

import msgspec
import numpy as np

import frontend
from frontend.domain import Domain
from frontend.paging.manager import GuestMemory
from frontend.paging.swapfile import SwapFile
from hypervisor.public.errors import MemcoordError
from hypervisor.public.units import FRAME_BYTES
from memcoord.testbed.guests._content import lib
from memcoord.testbed.guests.gates import MADE, READY, held_at, stand_at
from memcoord.testbed.guests.replay import PROGRAM_VERSION, GuestConfig, GuestResult, Replay
from memcoord.testbed.runs.launcher import end_with_parent
from memcoord.testbed.streams import stream_of

TAKEN_HERE = ("pages_verified", "run_s", "begin_s", "held_s")
#: Faults served by tmem that wait at once for one doorbell, as in a program of so many threads.
FAULTS_UNDER_WAY = 16

#: Counters of a guest's memory that its result has too.
COUNTED = [one for one in GuestResult.__struct_fields__ if one not in TAKEN_HERE]


def run(config: GuestConfig) -> GuestResult:
    """Do the domain's work; MemcoordError says what stopped it. Time counts from the first page."""
    stream = stream_of(config.workload, config.seed)
    program_pages = np.flatnonzero(stream.program).tolist()
    stand_at(MADE)
    with (
        frontend.attach(config.directory, config.name, token=config.token) as domain,
        SwapFile(config.swap_file, stream.page_count) as swap,
        SwapFile(f"{config.swap_file}.program", stream.page_count) as program,
        GuestMemory(
            domain,
            stream.page_count,
            config.workload.resident.frames,
            swap,
            program=program,
            program_pages=program_pages,
            boot_frames=config.boot_frames,
            tmem=config.tmem,
            depth=FAULTS_UNDER_WAY,
        ) as memory,
    ):
        _write_program(program, program_pages, domain, config.number)
        replay = Replay(
            stream,
            memory,
            name=config.name,
            number=config.number,
            compute_ns=stream.compute_ns,
            holds=config.holds,
            hold=lambda done: stand_at(held_at(done), memory.balance),
        )
        stand_at(READY)
        begin_s = time.monotonic()
        replay.run()
        run_s = time.monotonic() - begin_s - replay.held_s
        counted = memory.statistics()
        memory.validate()
    counts = {name: getattr(counted, name) for name in COUNTED}
    return GuestResult(
        **counts,
        pages_verified=replay.pages_verified,
        run_s=run_s,
        begin_s=begin_s,
        held_s=replay.held_s,
    )


def _write_program(file: SwapFile, pages: list[int], domain: Domain, number: int) -> None:
    """Write the program's pages; the file has no name any more, so that nothing is left of it."""
    file.path.unlink()
    if not pages:
        return
    frame = domain.alloc()
    for page in pages:
        lib.mc_program_fill(domain.address + frame * FRAME_BYTES, number, page, PROGRAM_VERSION)
        file.write(page, domain.view(frame))
    domain.free(frame)


def main(argv: list[str]) -> int:
    """Entry point of the process."""
    if len(argv) != 2:
        sys.stderr.write("usage: python -P -m memcoord.testbed.guests.replaying CONFIG\n")
        return 2
    end_with_parent()
    config = GuestConfig.decode(Path(argv[1]).read_bytes())
    try:
        result = run(config)
    except MemcoordError as error:
        sys.stderr.write(f"{config.name}: {error}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
