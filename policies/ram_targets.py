"""Arithmetic that policies of RAM share: units of their sources, needs, targets that fit the host.

Owns: the scale between a source's absolute numbers and this host, ``within``, and what RAM leaves
to tmem. Pure. Called by the policies that set RAM targets.

The sources were written for hosts of many GiB: a step of 100 MiB says nothing on a host of 64 MiB.
Their absolute numbers are parameters in pages with the source's own value, multiplied by ``scale``:
1 means as in the source, 0 (the default) means this host's size over 16 GiB.
"""

import numpy as np
from numpy.typing import NDArray

from policies.base import Column, View
from policies.water import water_fill

FRAMES_PER_MIB = 256
AREA_FRAMES = 512
SOURCE_HOST_FRAMES = 16 * 1024 * FRAMES_PER_MIB
#: RAM targets are put into force in areas of so many frames, rounded down.
ROUNDING_FRAMES_MAX = AREA_FRAMES


def host_frames(view: View) -> int:
    """Frames of the host; where the view does not tell, those there are to share."""
    return view.host_frames or view.ram_capacity


def scale_of(view: View, scale: float) -> float:
    """What an absolute number of a source is multiplied by on this host."""
    return scale or host_frames(view) / SOURCE_HOST_FRAMES


def free_frames(view: View) -> float:
    """Frames no domain holds and no tmem page is in, the host's slack included.

    Tmem keeps memory its pages have left until somebody wants it, so more may be free than the host
    itself says.
    """
    held = view.ram_current.sum() + view.used.sum()
    return float(max(view.host_free_frames, host_frames(view) - held))


def spare_frames(view: View) -> float:
    """Free frames beyond the slack; below 0 when even that is touched."""
    return free_frames(view) - max(view.host_frames - view.ram_capacity, 0)


def needed_frames(view: View) -> Column:
    """Frames the programs of each domain want: those they committed, within the limits.

    Where committed memory is not reported: frames in use, plus puts that failed this interval.
    """
    known = ~np.isnan(view.committed)
    needed = np.where(known, view.committed, view.in_use + np.nan_to_num(view.failed_puts))
    return np.clip(needed, 0, np.maximum(view.ram_minimum, view.ram_maximum))


def unrounded(view: View, asked: Column) -> Column:
    """What the target in force lost of ``asked``, the plan before, by being rounded down.

    Small steps add up only if this is not forgotten. 0 where ``asked`` is -1 (nothing) or is not
    what is in force.
    """
    lost = asked - view.ram_target
    return np.where((asked >= 0) & (lost >= 0) & (lost < ROUNDING_FRAMES_MAX), lost, 0.0)


def within(view: View, wanted: Column) -> Column:
    """``wanted`` between minimum and maximum, in sum within the RAM capacity.

    What is too much is taken from the growth over the targets in force; only if those alone are too
    much, from everybody, in proportion to what is above the minimum.
    """
    low = view.ram_minimum * min(1.0, view.ram_capacity / max(view.ram_minimum.sum(), 1.0))
    high = np.clip(view.ram_maximum, low, view.ram_capacity)
    fit = np.clip(wanted, low, high)
    excess = fit.sum() - view.ram_capacity
    growth = np.maximum(fit - np.maximum(view.ram_target, low), 0.0)
    if excess > 0 and growth.any():
        fit = fit - growth * min(excess / growth.sum(), 1.0)
        excess = fit.sum() - view.ram_capacity
    spare = fit - low
    if excess > 0 and spare.any():
        fit = fit - spare * min(excess / spare.sum(), 1.0)
    return fit


def whole_areas(view: View, areas: float, floor: Column, ceiling: Column) -> Column:
    """Water filling in whole areas; the largest fractions are rounded up."""
    level = water_fill(areas, view.weight, floor, ceiling)
    ram = np.floor(level + 1e-6)
    part = np.round(level - ram, 3)
    order = np.lexsort((alphabet(view), -view.ram_current, -part))
    order = order[: max(round(level.sum() - ram.sum()), 0)]
    ram[order] = np.minimum(ram + 1, ceiling)[order]
    return ram


def alphabet(view: View) -> NDArray[np.intp]:
    """The place of each name among all names: breaks ties in the same way for any domain order."""
    return np.argsort(np.argsort(np.array(view.names, dtype=np.str_)))


def left_for_tmem(view: View, goal: Column, need: Column, most: float = np.inf) -> Column:
    """Tmem pages for each, when RAM is to be ``goal`` and the programs want ``need`` frames.

    RAM comes first: what it still has to grow by to its need is no longer tmem's; the room beyond
    its need is, until it is used. Each domain keeps the pages it holds, as nothing is pulled back
    from tmem; on a shrink the largest targets are cut first. The rest, ``most`` pages at most, is
    filled by water up to the pages that are nowhere, and what nobody needs is shared.
    """
    growth = np.maximum(np.minimum(goal, need) - view.ram_current, 0).sum()
    budget = max(view.capacity - growth, 0)
    over, even = min(budget - view.used.sum(), most), np.ones(len(view))
    if over < 0:
        return water_fill(budget, even, 0 * even, view.used)
    nowhere = np.maximum(need - np.maximum(view.ram_current, goal) - view.used, 0)
    more = water_fill(over, even, 0 * even, nowhere)
    rest = max(over - more.sum(), 0.0)  # rounding may have given a little more than there is
    pages: Column = view.used + more + rest / max(len(view), 1)
    return pages
