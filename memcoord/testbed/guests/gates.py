"""The start barrier of a run, as a domain's process and its launcher see it.

Owns: the gates that a domain's process stands at, and the words between the two sides. At each
gate the process writes one line to its stdout, then waits for one byte on its stdin:

    MADE        its stream is made; it is no domain yet. The byte lets it attach.
    READY       it is attached and its memory is set up. The byte lets it make its first reference.
    held_at(N)  it has made N references, and goes on when those are ready that start then.

Domains that start together pass MADE at once and READY together. A late domain waits at MADE: it
holds no memory and is in no policy's view until it is due. The domain it waits for is held
meanwhile, so that how far that one is at the start does not depend on how busy the machine is.
Called by the programs in ``memcoord.testbed.guests`` (``stand_at``) and by
``memcoord.testbed.live.barrier`` (``reached``, ``open_gates``).
"""

import os
import select
import sys
from collections.abc import Callable
from typing import IO

from hypervisor.public.errors import MemcoordError

MADE, READY, HELD = "made", "ready", "held"
_KEY = b"\n"
STDIN = 0
#: A process that waits at a gate looks after its memory this often.
NAP_S = 0.02


class GateClosed(MemcoordError):
    """The launcher will not open a gate any more."""


def held_at(references: int) -> str:
    """The gate of a process that has made so many references."""
    return f"{HELD} {references}"


def stand_at(gate: str, meanwhile: Callable[[], object] | None = None) -> None:
    """In a domain's process: say that it stands at ``gate`` and wait; GateClosed at a hang-up.

    ``meanwhile`` is called every NAP_S.
    """
    sys.stdout.write(f"{gate}\n")
    sys.stdout.flush()
    while meanwhile is not None and not select.select([STDIN], [], [], NAP_S)[0]:
        meanwhile()
    if os.read(STDIN, len(_KEY)) != _KEY:
        raise GateClosed(f"the run ended while this domain stood at the gate {gate!r}")


def open_gates(stdin: IO[bytes] | None, count: int = 1) -> None:
    """In the launcher: open the next ``count`` gates of the process with this stdin."""
    if stdin is not None:
        try:
            os.write(stdin.fileno(), _KEY * count)
        except BrokenPipeError:
            return  # it has ended, which its launcher is about to see


def reached(output: bytes, gate: str) -> bool:
    """Whether a process that wrote ``output`` stands at ``gate`` or has passed it."""
    return gate.encode() in output.split(b"\n")


def answer_of(output: bytes) -> bytes:
    """What a process wrote behind its gates."""
    words = {gate.encode() for gate in (MADE, READY, HELD)}
    lines = output.split(b"\n")
    return b"\n".join(line for line in lines if line.partition(b" ")[0] not in words)
