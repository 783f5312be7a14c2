"""One look at a run: all that a live view shows, in plain values, before anything is drawn.

Owns: ``Frame`` and how it is made of a ``History``. Pure. ``screen`` draws it, ``--json`` prints
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hypervisor.public.backend import not_reached
from hypervisor.public.latency import quantile_ns
from memcoord.testbed.watch.ends import BAD, End
from memcoord.testbed.watch.folding import Folded, fold
from memcoord.testbed.watch.history import (
    DECISIONS_S,
    WINDOW_S,
    DomainNow,
    History,
    Trail,
)
from memcoord.testbed.watch.states import ORDER, State, sentence, state_of

SORTS = ("starved", "ram", "tmem", "name")
#: A tick that is older is no news.
STALE_S = 2.0
STALE_TICKS = 5
DETAIL_FOLD_S = 5.0
EVENTS_SHOWN = ("policy-fault", "violation", "domain-lingers")


@dataclass(frozen=True)
class Line:
    """One domain. Frames and pages of 4 KiB, -1 for no limit; rates a second, None if unknown."""

    name: str
    state: str
    why: str
    ram_frames: int
    ram_target_frames: int
    tmem_pages: int
    tmem_target_pages: int
    waits: float | None
    disk_reads: float | None
    puts_refused: float | None
    references: float | None
    grants: float | None


@dataclass(frozen=True)
class Gone:
    """A domain that was here: ``state`` is how it ended, or ``gone`` where nobody knows."""

    name: str
    state: str
    why: str


@dataclass(frozen=True)
class Cost:
    """What grants by one path cost lately; quantiles are None of too few."""

    path: str
    word: str
    count: int
    p50_ns: float | None
    p99_ns: float | None


@dataclass(frozen=True)
class Detail:
    """One domain, opened."""

    name: str
    mechanism: str
    unreached: str
    counts: dict[str, int]
    folds: list[Folded]
    trail: list[Trail]
    curve: list[int]


@dataclass(frozen=True)
class Frame:
    """A look at a run, ``age_s`` after its last tick."""

    run: str
    policy: str
    interval_ms: int
    tick: int
    age_s: float
    host: dict[str, int]
    notices: list[str]
    sentence: str
    lines: list[Line]
    folds: list[Folded]
    costs: list[Cost]
    credit: float  # grants a second that nobody waited for
    gone: list[Gone]
    detail: Detail | None = None

    @property
    def is_stale(self) -> bool:
        """Whether the last tick is no news any more."""
        return is_stale(self.age_s, self.interval_ms)

    def plain(self) -> dict[str, Any]:
        """As one JSON object."""
        told = asdict(self) | {"is_stale": self.is_stale}
        folds = [{"domain": one.first.domain, "line": one.line} for one in self.folds]
        detail = None
        if self.detail is not None:
            detail = told["detail"] | {"folds": [one.line for one in self.detail.folds]}
        return told | {"folds": folds, "detail": detail}


def is_stale(age_s: float, interval_ms: int) -> bool:
    """Whether a tick of so long ago is no news any more."""
    return age_s > max(STALE_S, STALE_TICKS * interval_ms / 1000)


def frame_of(
    history: History,
    now_ns: int,
    *,
    sort: str = "starved",
    opened: str = "",
    busy: str = "",
    title: str = "",
    ends: Mapping[str, End] | None = None,
) -> Frame | None:
    """What there is to see at ``now_ns`` of CLOCK_MONOTONIC; None before the first tick.

    ``opened`` is a domain's name, ``busy`` a word on the machine, ``title`` the name of the run,
    ``ends`` how domains ended, where that is known.
    """
    hello, last = history.hello, history.last
    if hello is None or last is None:
        return None
    domains = history.domains()
    states = {domain.name: state_of(domain) for domain in domains}
    lines = _sorted([_line(domain, states[domain.name]) for domain in domains], sort)
    gone = [_gone(name, why, ends or {}) for name, why in history.gone().items()]
    shown = next((domain for domain in domains if domain.name == opened), None)
    return Frame(
        run=title or hello.run,
        policy=hello.policy,
        interval_ms=hello.interval_ms,
        tick=last.tick,
        age_s=max(now_ns - last.monotonic_ns, 0) / 1e9,
        host=last.host,
        notices=_notices(history, gone, busy),
        sentence=sentence([(line.name, states[line.name]) for line in _sorted(lines, "starved")]),
        lines=lines,
        folds=fold(history.decisions(WINDOW_S), WINDOW_S),
        costs=_costs(history, opened if shown else ""),
        credit=sum(domain.rate("grants_credit") or 0.0 for domain in domains),
        gone=gone,
        detail=None if shown is None else _detail(history, shown),
    )


def _line(domain: DomainNow, state: State) -> Line:
    return Line(
        name=domain.name,
        state=state.word,
        why=state.why,
        ram_frames=domain.count("current_frames"),
        ram_target_frames=domain.count("target_frames"),
        tmem_pages=domain.count("tmem_used_pages"),
        tmem_target_pages=domain.count("tmem_target_pages"),
        waits=domain.waits,
        disk_reads=domain.rate("guest_swap_ins"),
        puts_refused=domain.rate("puts_failed"),
        references=domain.rate("guest_references"),
        grants=domain.rate("grants_credit", "grants_ring", "grants_transfer"),
    )


def _sorted(lines: Sequence[Line], sort: str) -> list[Line]:
    keys: dict[str, Callable[[Line], Any]] = {
        "starved": lambda line: (ORDER.index(line.state), -(line.waits or 0.0), line.name),
        "ram": lambda line: (-line.ram_frames, line.name),
        "tmem": lambda line: (-line.tmem_pages, line.name),
        "name": lambda line: line.name,
    }
    return sorted(lines, key=keys[sort])


def _gone(name: str, why: str, ends: Mapping[str, End]) -> Gone:
    end = ends.get(name)
    return Gone(name, "gone", why) if end is None else Gone(name, end.state, end.how)


def _notices(history: History, gone: Sequence[Gone], busy: str) -> list[str]:
    """What is wrong, the worst first."""
    found = []
    if history.host_rate("policy_faults"):
        found.append("the policy fails: its last valid plan is kept")
    hello = history.hello
    if hello is not None and hello.restarts:
        found.append(f"the hypervisor was started again {hello.restarts} times")
    found += [f"{one.name} {one.state}: {one.why}" for one in gone if one.state in BAD]
    for event in history.events:
        if event.event in EVENTS_SHOWN:
            told = event.fields.get("why") or event.fields.get("name") or ""
            found.append(f"{event.event}: {told}")
    return [*dict.fromkeys([*found, *([busy] if busy else [])])]


def _costs(history: History, domain: str) -> list[Cost]:
    return [
        Cost(path, word, sum(counts.values()), quantile_ns(counts, 0.5), quantile_ns(counts, 0.99))
        for (path, word), counts in sorted(history.latencies(domain).items())
        if counts
    ]


def _detail(history: History, domain: DomainNow) -> Detail:
    counts = {
        name: value
        for name, value in domain.values.items()
        if type(value) is int and not name.startswith(("set_", "reached_"))
    }
    return Detail(
        name=domain.name,
        mechanism="" if domain.limits is None else domain.limits.mechanism,
        unreached=not_reached(domain.values),
        counts=counts,
        folds=fold(history.decisions(DECISIONS_S, domain.name), DETAIL_FOLD_S),
        trail=history.trail(domain.name),
        curve=history.curve(domain.name),
    )
