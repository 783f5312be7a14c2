"""static-ram: a split of the host's RAM that no need changes, by default an equal one.

Source: the static partition that every comparison of the field begins with; equal shares are those
of SmarTmem's static-alloc (Garrido, Nishtala, Carpenter, IPDPSW 2019), here of RAM. Law: all RAM in
proportion to weight, between minimum and maximum; domains named in ``areas`` get so many areas
instead, and the others share the rest. Signals: the number of domains and their weights. Time
constant: one interval after a domain comes or goes. Bad at: it does not conserve work, and an idle
domain keeps its share. ``bench policies`` has a row best-static: this policy with the ``areas``
that are best for what the programs are going to do, which nobody can know beforehand.

Memory goes to RAM and none to tmem.
"""

from typing import Annotated

import msgspec
import numpy as np

from policies.base import Plan, PolicyError, PolicyParams, View
from policies.ram_targets import AREA_FRAMES, within
from policies.water import water_fill

#: ``areas`` is a list of DOMAIN=AREAS with this between them, because "," ends a parameter.
SEPARATOR = "+"


class StaticRam:
    """RAM in fixed shares."""

    name = "static-ram"
    settles = True
    truthful = True

    class Params(PolicyParams):
        """``areas``: of 2 MiB, by domain, as ``vm1=3+vm2=4``; a domain not named gets a share."""

        areas: Annotated[str, msgspec.Meta(max_length=1 << 16)] = ""

    def __init__(self, params: Params) -> None:
        self.params = params
        self._areas = dict(map(_entry, filter(None, params.areas.split(SEPARATOR))))

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        given = np.array([self._areas.get(name, -1) for name in view.names], dtype=np.float64)
        fixed = given >= 0
        low, high = view.ram_minimum, np.maximum(view.ram_minimum, view.ram_maximum)
        own = np.clip(given * AREA_FRAMES, low, high)
        low, high = np.where(fixed, own, low), np.where(fixed, own, high)
        ram = within(view, water_fill(view.ram_capacity, view.weight, low, high))
        return Plan(np.zeros(len(view)), ram, _RULES[fixed.astype(np.intp)])


def areas_text(areas: dict[str, int]) -> str:
    """The parameter ``areas`` that gives every domain as many."""
    return SEPARATOR.join(f"{name}={count}" for name, count in areas.items())


def _entry(text: str) -> tuple[str, int]:
    name, _, count = text.strip().partition("=")
    if not name or not count.isdecimal():
        raise PolicyError(f"areas: {text!r} is not DOMAIN=AREAS")
    return name, int(count)


_RULES = np.array(["a share of the host's RAM", "the areas it is to have"])
