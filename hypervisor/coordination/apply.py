"""Put a checked plan into force, shrinks before grows.

Owns: the order in which targets are sent, and the rule that RAM grows only into memory that is
there. Called by the coordinator, once per tick. A target that equals the one in force is not sent.

tmem: a target is an admission limit. The order is shrinks, then unlimited to limited, then grows,
so that the limited targets never exceed capacity in sum at any moment. A grow need not wait for the
pages themselves: the pool refuses a put while no page is free, and a domain above its own target
can take none. So a freed page goes at once to the domain for which the plan means it.

RAM: 1. send the shrinks. 2. If there were any, take a new snapshot, because free areas come back at
once. 3. Spare memory is free memory and empty tmem, less slack, less the frames that other targets
promise and have not delivered. It goes to the growing domains of the highest priority, among equals
in proportion, then to the next. The rest waits for the next tick. RAM moves in whole granules of
the domain's mechanism, an area at least, so targets are rounded down to granules. A backend that
rounded up by itself would exceed the spare memory, and the target would be sent at every tick.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hypervisor.coordination.snapshot_view import Present, granule_of
from hypervisor.public.backend import DomainSnapshot, HostSnapshot, Targets
from hypervisor.public.errors import InternalError, MemcoordError
from hypervisor.public.units import AREA_FRAMES, DomId, areas_of
from policies import CheckedPlan, Plan
from policies.checked import ration

UNLIMITED_PAGES = -1  # how the backend writes a tmem target without a limit


@dataclass(frozen=True)
class Move:
    """One target that was to change: from ``old`` to ``wanted``, in fact to ``new``."""

    index: int  # in ``present``
    old: int
    wanted: int
    new: int
    refusal: str = ""  # the backend's reason, where it refused the target


def apply_tmem(backend: Targets, present: Present, plan: CheckedPlan) -> list[Move]:
    """Send the tmem targets of ``plan`` that differ from those in force."""
    if plan.tmem is None:
        return []
    moves = []
    for index, (_, now) in enumerate(present):
        target = int(plan.tmem[index])
        wanted = UNLIMITED_PAGES if target == Plan.UNLIMITED else target
        if wanted != now.tmem_target_pages:
            moves.append(Move(index, now.tmem_target_pages, wanted, wanted))
    return [_send(backend.set_tmem_target, present, move) for move in sorted(moves, key=_phase)]


def _phase(move: Move) -> int:
    if move.old == UNLIMITED_PAGES:
        return 1
    return 0 if 0 <= move.wanted < move.old else 2


def apply_ram(
    backend: Targets, host: HostSnapshot, present: Present, plan: CheckedPlan
) -> list[Move]:
    """Send the RAM targets of ``plan`` that differ; grows only as far as memory has arrived."""
    if plan.ram is None:
        return []
    granule = [granule_of(now) for _, now in present]
    wanted = [int(target) // step * step for target, step in zip(plan.ram, granule, strict=True)]
    old = [now.target_frames for _, now in present]
    done = [
        _send(backend.set_target, present, Move(index, old[index], wanted[index], wanted[index]))
        for index in range(len(present))
        if wanted[index] < old[index]
    ]
    growers = [index for index in range(len(present)) if wanted[index] > old[index]]
    if not growers:
        return done
    if done:
        host = backend.snapshot()
    promised = host.slack_frames + sum(map(_promised, host.domains))
    spare = max(host.free_frames + _empty(host) - promised, 0)
    asked = np.array([areas_of(wanted[index] - old[index]) for index in growers])
    priority = np.array([present[index][0].config.priority for index in growers], dtype=float)
    given = ration(asked, priority, spare // AREA_FRAMES)
    for index, areas in zip(growers, given.tolist(), strict=True):
        growth = min(areas * AREA_FRAMES, wanted[index] - old[index])
        growth -= growth % granule[index]
        move = Move(index, old[index], wanted[index], old[index] + growth)
        done.append(_send(backend.set_target, present, move) if growth else move)
    return done


def _empty(host: HostSnapshot) -> int:
    """Frames tmem holds for later pages, in whole areas; tmem gives them up when asked."""
    return max(host.tmem_frames - host.tmem_used_pages, 0) // AREA_FRAMES * AREA_FRAMES


def _promised(now: DomainSnapshot) -> int:
    """Frames a domain may still take under its target in force."""
    return max(now.target_frames - now.installed_frames, 0)


def _send(send: Callable[[DomId, int], None], present: Present, move: Move) -> Move:
    """Send one target. A refusal concerns this domain only; the others get theirs."""
    try:
        send(present[move.index][0].domid, move.new)
    except InternalError:
        raise
    except MemcoordError as error:
        return Move(move.index, move.old, move.wanted, move.old, str(error))
    return move
