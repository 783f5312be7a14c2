"""The tables of ``memcoord bench smartmem``, for a terminal and for docs/smartmem.md. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from memcoord.benchmarks import tables
from memcoord.benchmarks.smartmem import verdict
from memcoord.benchmarks.sweep.table import number
from memcoord.benchmarks.tables import Table

Found = Mapping[str, Any]

INTERVALS_MIN = 100
#: The world of real programs.
PROGRAMS = "programs"
LATENCIES = ("p50", "p99", "p999", "max")
EXPLAINED = (
    "Gain over greedy in percent of the run time, mean [95 % interval] over seeds, which move the "
    "starts; worst: of the domain that fares worst in each run. Gains and pays: domains whose "
    "interval lies on one side of 0. Intervals: ticks of the policy in the shortest run; the paper "
    "has a second in minutes."
)


def percent(figure: Mapping[str, Any]) -> str:
    """ "+12 [+8, +16]"."""
    return tables.with_interval(figure, "+.0f")


def tables_of(found: Found) -> Iterator[Table]:
    """A table per world and situation, a line per policy."""
    for world in dict.fromkeys(row["world"] for row in found["rows"].values()):
        for situation in found["situations"]:
            rows = [found["rows"].get(f"{world}/{situation}/{p}") for p in found["policies"]]
            known = [row for row in rows if row is not None]
            names = list(known[0]["domains"]) if known else []
            lines = [
                [
                    row["policy"],
                    *(percent(row["domains"][name]) for name in names),
                    percent(row["mean"]),
                    percent(row["worst"]),
                    " ".join(row["gains"]) or "nobody",
                    " ".join(row["pays"]) or "nobody",
                    str(row["intervals"]),
                ]
                for row in known
                if row["policy"] != "greedy"
            ]
            head = ["policy", *names, "mean", "worst", "gains", "pays", "intervals"]
            yield Table(f"{situation}, {world}", head, lines)
            if world == PROGRAMS:
                times = [[row["policy"], *map(_seconds, row["seconds"].values())] for row in known]
                yield Table(f"{situation}, {world}: seconds", ["policy", *names], times)
                counts = [[row["policy"], *map(_thousands, row["disk_reads"].values())]
                          for row in known]  # fmt: skip
                title = f"{situation}, {world}: thousands of pages from the disk"
                yield Table(title, ["policy", *names], counts)
    yield from _served(found)


def _seconds(figure: Mapping[str, Any]) -> str:
    """ "12.5 [11.0, 14.1]": a figure that is never below 0, and so is no end of its interval."""
    value, low, high = (number(figure.get(key)) for key in ("value", "low", "high"))
    if value != value:
        return tables.MISSING
    return f"{value:.1f}" if low != low else f"{value:.1f} [{max(low, 0):.1f}, {high:.1f}]"


def _thousands(figure: Mapping[str, Any]) -> str:
    found = {key: number(figure.get(key)) / 1000 for key in ("value", "low", "high")}
    return _seconds(found)


def _served(found: Found) -> Iterator[Table]:
    """Latencies of the servers: the median over the runs."""
    lines = []
    for where, runs in found.get("latencies_ms", {}).items():
        situation, policy, domain = where.split("/")
        known = [run for run in runs if run.get("p99") is not None]
        if known:
            middle = (median(run[key] for run in known) for key in LATENCIES)
            lines.append([situation, policy, domain, *(f"{ms:.2f}" for ms in middle)])
    if lines:
        head = ["situation", "policy", "server", "p50", "p99", "p99.9", "most"]
        yield Table("answers of the servers: ms, median over the runs", head, lines)


def closing_lines(found: Found) -> list[str]:
    """How near each situation comes to the claim, runs that are too short, failures."""
    lines = [EXPLAINED, f"The claim: up to {verdict.CLAIMED_PERCENT} % for an application."]
    for world in dict.fromkeys(row["world"] for row in found["rows"].values()):
        for situation in found["situations"]:
            figure, name, policy = verdict.best(found, world, situation)
            means = [
                number(row["mean"]["value"])
                for row in found["rows"].values()
                if (row["world"], row["situation"]) == (world, situation)
                and row["policy"].startswith("smart-alloc")
            ]
            known = [value for value in means if value == value]
            if figure is not None and known:
                most = f"{percent(figure)} % for {name} under {policy}"
                lines.append(f"{situation}, {world}: most {most}; best mean {max(known):+.0f} %")
        lines += verdict.sentences(found, world)
    if PROGRAMS in found.get("worlds", ()):
        lines += _of_programs(found)
    short = [key for key, row in found["rows"].items() if row["intervals"] < INTERVALS_MIN]
    if short:
        lines.append(f"fewer than {INTERVALS_MIN} intervals: {', '.join(short)}")
    return [*lines, *found["errors"]]


def _of_programs(found: Found) -> list[str]:
    """What was checked in each run of real programs, and what ran beside them."""
    others, before = found["loads"]["others_cpus"], found["loads"]["before_1m"]
    lines = [
        "Every program said the same of its memory in all of its runs.",
        f"Beside the runs: load average {before['median']}, at most {before['most']}; others used "
        f"{others['median']} CPUs, at most {others['most']}.",
    ]
    if any("said other than" in error for error in found["errors"]):
        lines[0] = "Wrong bytes: see the errors."
    starts = found.get("starts", ())
    more = [f"Starts that were not the scenario's: {len(starts)}, as {starts[0]}"] if starts else []
    return lines + more


def markdown(found: Found) -> str:
    """All tables, and the machine."""
    machine, seeds = found["machine"], ", ".join(map(str, found["seeds"]))
    told = [
        f"seeds {seeds}",
        machine.get("cpu", ""),
        f"{machine['cores']} cores" if "cores" in machine else "",
        f"load before the run {machine.get('load_1m', 'not recorded')}",
        f"commit {machine['commit']}" if machine.get("commit") else "",
    ]
    text = [f"Made by `{found['command']}`: {'; '.join(filter(None, told))}."]
    for table in tables_of(found):
        text += ["", *tables.markdown(table)]
    return "\n".join([*text, "", *(f"- {line}" for line in closing_lines(found))]) + "\n"
