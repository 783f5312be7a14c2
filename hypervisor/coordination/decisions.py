"""The journal of decisions: the memory behind ``memcoord why``.

Owns: ``Decision`` and the bounded journal of them. The coordinator writes it, the control plane
reads it. A domain's last decisions outlive the domain, until decisions about RECALLED_DOMAINS_MAX
other names have followed.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Literal

DECISIONS_PER_DOMAIN = 64
RECALLED_DOMAINS_MAX = 256


@dataclass(frozen=True)
class Decision:
    """One change of one target, or the reason there was none. Pages and frames of 4 KiB."""

    tick: int
    time_ns: int
    domain: str
    kind: Literal["tmem", "ram", "policy", "operator"]
    old: int  # target before, -1: unlimited
    new: int  # target after
    rule: str  # which branch of the policy, or which rule of the coordinator
    clamp: str = ""  # why ``new`` differs from the policy's wish
    inputs: dict[str, int] = field(default_factory=dict)  # columns of the policy's view
    asked: int | None = None  # what the checked plan wanted; None: nothing was wanted

    def __str__(self) -> str:
        """A line for people."""
        change = f"{_pages(self.old)} -> {_pages(self.new)}" if self.new != self.old else "as is"
        seen = ", ".join(f"{name} {value}" for name, value in self.inputs.items())
        parts = [f"tick {self.tick}", f"{self.kind} {change}", self.rule, self.clamp, seen]
        return "; ".join(filter(None, parts))


class Journal:
    """The last DECISIONS_PER_DOMAIN decisions of each domain."""

    def __init__(self) -> None:
        self._by_name: OrderedDict[str, deque[Decision]] = OrderedDict()

    def add(self, decision: Decision) -> None:
        """Note ``decision``; the oldest of its domain goes when there are too many."""
        kept = self._by_name.setdefault(decision.domain, deque(maxlen=DECISIONS_PER_DOMAIN))
        self._by_name.move_to_end(decision.domain)
        kept.append(decision)
        if len(self._by_name) > RECALLED_DOMAINS_MAX:
            self._by_name.popitem(last=False)

    def of(self, name: str) -> list[Decision]:
        """Decisions about ``name``, oldest first; empty when there are none."""
        return list(self._by_name.get(name, ()))


def _pages(target: int) -> str:
    return "unlimited" if target < 0 else str(target)
