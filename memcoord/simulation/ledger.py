"""The host's memory in areas, for the compiled guests: where an area comes from.

Owns: the rules of the ledger, which are those of ``backend/abi/supply.c``. RAM grows out of free
memory beyond slack and promises, else out of a spare area of another domain, else out of tmem.
tmem grows out of free memory only. The pool's compiled entries are called by their addresses, as
the hypervisor's C service calls them. Used by ``memcoord.simulation.guest``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, attr-defined, call-arg, no-any-return, var-annotated"

from __future__ import annotations

from numba import int64

from hypervisor.public.units import AREA_FRAMES
from memcoord.simulation import layout as L
from tmem.raw_memory import call, kernel

NOBODY = -1


@kernel
def has_free(world):
    """Whether the host has more free memory than its slack and its promises."""
    return world.free_areas > world.slack_areas + world.promised_areas


@kernel
def grow_tmem(world):
    """Give the pool one more area out of free memory, if the pool may have one."""
    if not has_free(world) or world.tmem_areas >= world.tmem_areas_max:
        return
    for area in range(world.tmem_areas_max):
        if not world.slab_used[area]:
            if call(world.grow, (world.tmem_state, area)) >= 0:
                world.slab_used[area] = 1
                world.tmem_areas += 1
                world.free_areas -= 1
            return


@kernel
def shrink_tmem(world):
    """Make one area of the pool free memory; False when the pool gives none."""
    if world.tmem_areas == 0:
        return False
    area = call(world.shrink, (world.tmem_state,))
    if area < 0:
        return False
    world.slab_used[area] = 0
    world.tmem_areas -= 1
    world.free_areas += 1
    return True


@kernel
def spare_areas(domain):
    """Areas a domain has and does not use."""
    frames = domain.resident + domain.spares
    return domain.current_areas - (frames + AREA_FRAMES - 1) // AREA_FRAMES


@kernel
def release(world, domain, areas):
    """Make ``areas`` of a domain free memory."""
    domain.current_areas -= areas
    domain.reclaimed += areas
    world.free_areas += areas


@kernel
def take_spare(world, receiver):
    """Make a spare area of another domain free memory; False when no other domain has one.

    The first domain above its target gives it, else the domain with the most spare areas.
    """
    best, most = int64(NOBODY), 0
    for slot in range(L.SLOTS):
        domain = world.domains[slot]
        if domain.state != L.RUNNING or slot == receiver.number:
            continue
        spare = spare_areas(domain)
        if spare > 0 and domain.current_areas > domain.target_areas:
            release(world, domain, 1)
            return True
        if spare > most:
            best, most = slot, spare
    if best == NOBODY:
        return False
    release(world, world.domains[best], 1)
    return True


@kernel
def grow_ram(world, domain):
    """Give a domain one more area; False when its target or the host's memory forbids it."""
    if domain.current_areas >= domain.target_areas:
        return False
    if has_free(world):
        domain.grants += 1
    elif take_spare(world, domain) or shrink_tmem(world):
        domain.transfers += 1
    else:
        return False
    world.free_areas -= 1
    domain.current_areas += 1
    return True
