"""The page of two runs against each other: what was changed, and by how much the outcome.

Owns: the comparison. Figures of both are set beside each other; a difference is named only where
the intervals of the two do not touch, which is a stricter test than it need be: the runs share no
rounds, so nothing cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memcoord.testbed.archive import page
from memcoord.testbed.archive.columns import length
from memcoord.testbed.archive.outcome import Outcome
from memcoord.testbed.archive.run_page import course_pictures, machine_lines
from memcoord.testbed.report.headline import FIGURES
from memcoord.testbed.report.results import Estimate, PolicyResult

HEADS = ("policy", "figure", "A", "B", "B over A", "difference")
CHANGE_HEADS = ("setting", "A", "B")
MISSING = "-"
#: Facts of the machine that differ between any two runs.
OF_THE_MOMENT = ("load_1m",)


def document(a: Outcome, b: Outcome) -> str:
    """The whole page."""
    title = f"{a.report.scenario}, A, and {b.report.scenario}, B"
    return page.document(f"memcoord: {title}", page.article(title, _parts(a, b)))


def _parts(a: Outcome, b: Outcome) -> Iterator[str]:
    shared = [name for name in a.policies if name in b.policies]
    yield page.verdict(verdict(a, b))
    yield page.heading("What was changed")
    changed = changes(a, b)
    if changed:
        yield page.table("What was changed", CHANGE_HEADS, changed, words=3)
    else:
        yield page.note("Nothing in the settings, the versions or the machine.")
    yield page.heading("Figures")
    rows = [row for name in shared for row in _figures(_of(a, name), _of(b, name))]
    if rows:
        yield page.table("Figures", HEADS, rows, words=2)
        yield page.note(
            "In brackets the 95 % interval over rounds. A difference is named only where the two "
            "intervals do not touch; with one round there is none to go by."
        )
    yield page.heading("Over time")
    courses = [
        (f"{name}, {mark}", run.series(name, round=0))
        for name in shared
        for mark, run in (("A", a), ("B", b))
    ]
    yield from course_pictures([one for one in courses if length(one[1])])
    for mark, run in (("A", a), ("B", b)):
        yield page.heading(f"{mark}: where and when")
        yield page.listed([] if run.manifest is None else machine_lines(run.manifest))


def verdict(a: Outcome, b: Outcome) -> list[str]:
    """Per policy that both have, what differs beyond doubt; else that nothing does."""
    shared = [name for name in a.policies if name in b.policies]
    if not shared:
        return ["The two runs have no policy in common: there is nothing to compare."]
    said = []
    for name in shared:
        found = [
            f"{title} {_ratio(ours, theirs)}"
            for field, title, _ in FIGURES
            if (pair := (getattr(_of(a, name), field), getattr(_of(b, name), field)))
            and differ(ours := pair[0], theirs := pair[1])
        ]
        told = "; ".join(found) or "no difference shown"
        said.append(f"Under {name}, B against A: {told}.")
    if not (a.report.times_comparable and b.report.times_comparable):
        said.append("Other work took the CPUs in one of them: compare counts, not times.")
    return said


def differ(a: Estimate, b: Estimate) -> bool:
    """Whether the intervals of two figures do not touch."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.high < b.low or b.high < a.low


def _of(run: Outcome, name: str) -> PolicyResult:
    return next(one for one in run.report.policies if one.policy == name)


def _figures(a: PolicyResult, b: PolicyResult) -> Iterator[list[page.Cell]]:
    for field, title, is_count in FIGURES:
        ours, theirs = getattr(a, field), getattr(b, field)
        if ours.value is None and theirs.value is None:
            continue
        told = "differs" if differ(ours, theirs) else "not shown"
        shown = [_shown(one, is_count) for one in (ours, theirs)]
        yield [a.policy, title, *shown, _ratio(ours, theirs), (told, "t")]


def _shown(found: Estimate, is_count: bool) -> str:
    if found.value is None:
        return MISSING
    form = ",.0f" if is_count else ",.2f"
    text = f"{found.value:{form}}"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{found.low:{form}}, {found.high:{form}}]"


def _ratio(a: Estimate, b: Estimate) -> str:
    if not a.value or b.value is None:
        return MISSING
    return f"x{b.value / a.value:.2f}"


def changes(a: Outcome, b: Outcome) -> list[list[str]]:
    """Every setting, version and fact of the machine that the two do not share."""
    if a.manifest is None or b.manifest is None:
        return []
    found = []
    for part in ("config", "versions", "machine"):
        before = dict(_flat(getattr(a.manifest, part)))
        after = dict(_flat(getattr(b.manifest, part)))
        for key in dict.fromkeys([*before, *after]):
            if key in OF_THE_MOMENT or before.get(key) == after.get(key):
                continue
            values = (str(one.get(key, MISSING)) for one in (before, after))
            found.append([key if part == "config" else f"{part}: {key}", *values])
    return found


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested settings by their paths: ``domain[0].ram``; domains by their names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{path}[{number}]")
    else:
        yield path, value
