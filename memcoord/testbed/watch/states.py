"""How a domain fares, in one word that means the same in every view, and the sentence over all.

Owns: the words and their bounds. Pure. How long a domain waits is its own word, and where more
threads want to run than there are CPUs, part of it is waiting for the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memcoord.testbed.watch.history import DomainNow

STARVED_SHARE, SQUEEZED_SHARE = 0.5, 0.1
BROKEN, STARVED, SQUEEZED, IDLE, OK = "BROKEN", "STARVED", "squeezed", "idle", "ok"
#: The worst first.
ORDER = (BROKEN, STARVED, SQUEEZED, OK, IDLE)
NAMED_MAX = 4


@dataclass(frozen=True)
class State:
    """The word, and what it is said of."""

    word: str
    why: str = ""


def state_of(domain: DomainNow) -> State:
    """How a domain fared over the last window."""
    waits = domain.waits
    refused, failed = domain.rate("refused"), domain.rate("puts_failed")
    reads = domain.rate("guest_swap_ins")
    if domain.values.get("broken"):
        return State(BROKEN, "the hypervisor serves it no more")
    if refused:
        return State(STARVED, f"is refused RAM {_often(refused)}")
    if waits is not None and waits >= STARVED_SHARE:
        return State(STARVED, f"waits {waits:.0%} of its time for memory".replace("%", " %"))
    if waits is not None and waits >= SQUEEZED_SHARE and reads:
        return State(SQUEEZED, f"reads {reads:,.0f} pages a second from disk")
    if failed:
        return State(SQUEEZED, f"tmem refuses {failed:,.0f} pages a second")
    if domain.rate("guest_references") == 0:
        return State(IDLE)
    return State(OK)


def _often(rate: float) -> str:
    return f"{rate:,.0f} times a second" if rate >= 1.5 else "now and then"


def sentence(states: Sequence[tuple[str, State]]) -> str:
    """Who is starved and why, of domains by name; or that nobody is."""
    found: list[str] = []
    for word in (BROKEN, STARVED):
        hit = [(name, state.why) for name, state in states if state.word == word]
        shown = "; ".join(f"{name} {why}" for name, why in hit[:NAMED_MAX])
        more = f"; and {len(hit) - NAMED_MAX} more" if len(hit) > NAMED_MAX else ""
        found += [f"{word.lower()}: {shown}{more}"] if hit else []
    if found:
        return "; ".join(found)
    if not states:
        return "no domain is attached"
    squeezed = [name for name, state in states if state.word == SQUEEZED]
    if squeezed:
        more = f" and {len(squeezed) - NAMED_MAX} more" if len(squeezed) > NAMED_MAX else ""
        return f"nobody is starved; squeezed: {', '.join(squeezed[:NAMED_MAX])}{more}"
    return "nobody is starved"
