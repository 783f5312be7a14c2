"""The page of one run: verdict, table, courses over time, decisions, latencies, where and when.

Owns: the content and its order. Called by ``memcoord report`` and by a notebook that shows a run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from memcoord.testbed.archive import page, svg
from memcoord.testbed.archive.columns import Columns, length
from memcoord.testbed.archive.latencies import by_path, seconds
from memcoord.testbed.archive.moves import Moves, moves_of
from memcoord.testbed.archive.outcome import Outcome
from memcoord.testbed.archive.over_time import MIB, Panel, panels
from memcoord.testbed.report import headline
from memcoord.testbed.report.claims import bound
from memcoord.testbed.report.results import Against, DomainResult
from memcoord.testbed.runs.rundir import Manifest

RESULT_HEADS: tuple[str, ...] = (
    "policy",
    "domain",
    "program",
    "run time, s",
    "time against greedy",
    "slowdown",
)
RESULT_HEADS += ("from tmem, pages", "from disk, pages", "disk against greedy", "refused puts")
RESULT_HEADS += ("state",)
DECISION_HEADS = ("policy", "domain", "what", "from", "to", "decisions", "turns", "by which rule")
LATENCY_HEADS = ("policy", "path", "whose clock", "grants", "p50", "p99")
DOMAINS_MAX = 64  # of folded decisions, the most decided first


def document(run: Outcome) -> str:
    """The whole page."""
    return page.document(f"memcoord: {title_of(run)}", body(run))


def title_of(run: Outcome) -> str:
    """The run in a line."""
    return f"{run.report.scenario}: {', '.join(run.policies)}"


def body(run: Outcome) -> str:
    """All of it but the frame of a page."""
    parts = [page.verdict(run.verdict), *claims(run), page.heading("Results"), results(run)]
    parts += [
        page.note(_explained()),
        page.note(_who_moves_ram(run)),
        *over_time(run),
        *decisions(run),
        *latencies(run),
    ]
    parts += where_and_when(run)
    return page.article(title_of(run), parts)


def claims(run: Outcome) -> list[str]:
    """What the scenario was to show, and whether it did."""
    found = [
        f"{one.says}: {'shown' if one.is_shown else 'not shown by this run'} ({one.why})"
        for one in run.report.claims
    ]
    return [page.note("What this scenario is to show:"), page.listed(found)] if found else []


def results(run: Outcome) -> str:
    """A row per policy and domain."""
    comparable = run.report.times_comparable
    rows = [
        [policy.policy, one.domain, one.workload.rpartition("/")[2], *_cells(one, comparable)]
        for policy in run.report.policies
        for one in policy.domains
    ]
    return page.table("Results", RESULT_HEADS, rows, words=3)


def _cells(one: DomainResult, comparable: bool) -> list[page.Cell]:
    return [
        f"{one.run_s:.2f}",
        _against(one.against_baseline.get("seconds"), comparable),
        "-" if one.slowdown is None else f"x{one.slowdown:.2f}",
        f"{one.tmem_hits:,}",
        f"{one.swap_ins + one.file_reads:,}",
        _against(one.against_baseline.get("disk_reads")),
        f"{one.failed_puts:,}",
        (one.state, "t") if one.state == "done" else (f"{one.state} {one.reason}".strip(), "bad"),
    ]


def _against(found: Against | None, comparable: bool = True) -> page.Cell:
    """A ratio to greedy, with its interval where there is one; colour only beside words."""
    if found is None or found.value is None:
        return "-"
    text = f"x{bound(found.value)}"
    if not comparable:
        return f"{text} {headline.NOT_COMPARABLE}"
    if found.low is None or found.high is None:
        return text
    text += f" [{bound(found.low)}, {bound(found.high)}]"
    kind = {"better": "good", "worse": "bad"}.get(found.verdict, "")
    return (f"{text} {found.verdict}", kind) if kind else text


def _explained() -> str:
    return (
        "Against greedy: x0.50 is half of greedy's figure, in brackets its 95 % interval; better "
        "or worse only where that leaves out x1. Slowdown: its time over its time alone on the "
        "host. From tmem, from disk: which answered its faults. Refused puts: pages that tmem did "
        "not take."
    )


def _who_moves_ram(run: Outcome) -> str:
    movers = [policy.policy for policy in run.report.policies if policy.moves_ram]
    if not movers:
        return "No policy here set targets of RAM: they only divide tmem."
    return f"Set targets of RAM: {', '.join(movers)}. All others only divide tmem."


def over_time(run: Outcome) -> list[str]:
    """The courses of round 0, all policies on one scale."""
    courses = [(name, run.series(name, round=0)) for name in run.policies]
    courses = [(name, ticks) for name, ticks in courses if length(ticks)]
    return [page.heading("Over time"), *course_pictures(courses, _rounds(run))]


def _rounds(run: Outcome) -> str:
    rounds = max((len(policy.rounds) for policy in run.report.policies), default=0)
    return f"The first of {rounds} rounds. " if rounds > 1 else ""


def course_pictures(courses: Sequence[tuple[str, Columns]], first: str = "") -> list[str]:
    """A row of pictures per quantity, with what must be known to read them."""
    if not courses:
        return [page.note("No ticks were recorded.")]
    found = panels(courses)
    is_map = any(of_quantity[0].rows for of_quantity in found.values())
    text = f"{first}All pictures of a row have one scale."
    text += " A line per domain, the darker the more." if is_map else " Dashed: the target."
    if "ram" not in found:
        text += " No domain's RAM changed, so it is not drawn."
    made = [page.note(text)]
    for of_quantity in found.values():
        made.append(f"<h3>{page.escape(of_quantity[0].title)}</h3>")
        made.append(page.pictures([(one.policy, _picture(one)) for one in of_quantity]))
        if of_quantity[0].rows:
            scale = f"White: none; darkest: {svg.short(round(of_quantity[0].top, 1))}"
            made.append(page.note(f"{scale} {of_quantity[0].unit}."))
    return made


def _picture(panel: Panel) -> str:
    label = f"{panel.title} under {panel.policy}"
    if panel.rows:
        return svg.heat(panel.rows, end_s=panel.end_s, label=f"{label}, a row per domain")
    lines = [
        svg.Curve(one.name, one.time_s, one.values, one.colour, one.is_target, panel.unit == "MiB")
        for one in panel.lines
    ]
    return svg.curves(lines, end_s=panel.end_s, top=panel.top, label=label)


def decisions(run: Outcome) -> list[str]:
    """Where each target went in round 0, and by which rules."""
    rows = []
    for policy in run.policies:
        found = moves_of(run.decisions(policy, round=0))
        shown = sorted(found, key=lambda one: -one.count)[:DOMAINS_MAX]
        rows += [[policy, *_moves(one)] for one in found if one in shown]
    if not rows:
        return []
    text = "Where a target began and ended, and how often it turned. More turns: it swings."
    table = page.table("Decisions", DECISION_HEADS, rows, words=3)
    return [page.heading("What the policies decided"), page.note(text), table]


def _moves(one: Moves) -> list[page.Cell]:
    rules = ", ".join(f"{rule} x{count}" for rule, count in one.rules)
    ends = [_size(one.first_bytes), _size(one.last_bytes)]
    return [one.domain, one.kind, *ends, f"{one.count:,}", f"{one.turns:,}", (rules, "t w")]


def _size(value_bytes: float) -> str:
    if math.isnan(value_bytes):
        return "-"
    return "no limit" if math.isinf(value_bytes) else f"{value_bytes / MIB:,.1f} MiB"


def latencies(run: Outcome) -> list[str]:
    """What a grant cost by path, where the run counted it."""
    rows = [
        [policy, one.path, f"the {one.word}'s", f"{one.count:,}", *map(seconds, (one.p50, one.p99))]
        for policy in run.policies
        for one in by_path(run.latencies(policy))
    ]
    if not rows:
        return []
    text = (
        "Counted in buckets 19 to 25 % wide, so two digits are known. The guest's clock has the "
        "wake-up in it, and the guest may lie; the host's has not, and does not. Too few: the "
        "count does not carry that quantile. What a domain takes of what it holds is not timed."
    )
    table = page.table("Latencies", LATENCY_HEADS, rows, words=3)
    return [page.heading("What a grant cost"), page.note(text), table]


def where_and_when(run: Outcome) -> list[str]:
    """Machine, versions, load, command: what it takes to make the run again."""
    lines = [*headline.load_lines(run.report), *run.report.notes]
    lines += [
        f"{policy.policy}: {text}"
        for policy in run.report.policies
        for text in (*policy.notices, *policy.overlap)
    ]
    if run.manifest is not None:
        lines = [*machine_lines(run.manifest), *lines]
    if run.report.world == "sim":
        lines.append("All times are virtual: a simulation.")
    return [page.heading("Where and when"), page.listed(lines)] if lines else []


def machine_lines(manifest: Manifest) -> list[str]:
    """A manifest in words."""
    machine, versions = manifest.machine, manifest.versions
    words = [word if at else word.rpartition("/")[2] for at, word in enumerate(manifest.argv)]
    lines = [f"{manifest.started_utc}, state {manifest.state}, seed {manifest.seed}"]
    if machine:
        facts = f"{machine.get('cpu')}, {machine.get('cores')} CPUs, Linux {machine.get('kernel')}"
        load = f"load {machine.get('load_1m')} at the start"
        lines.append(f"{facts}, {load}, commit {machine.get('commit') or 'unknown'}")
    if versions:
        lines.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return [*lines, f"command: {' '.join(words)}"]
