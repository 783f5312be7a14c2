"""The tables of ``memcoord bench smartmem``, for a terminal and for docs/smartmem.md. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memcoord.benchmarks import tables
from memcoord.benchmarks.sweep.table import number
from memcoord.benchmarks.tables import Table

Found = Mapping[str, Any]

#: The claim, in percent of greedy's time.
CLAIMED_PERCENT = 35
INTERVALS_MIN = 100
EXPLAINED = (
    "Gain over greedy in percent of the run time, mean [95 % interval] over seeds, which move the "
    "starts. Gains and pays: domains whose interval lies on one side of 0. Intervals: ticks of the "
    "policy in the shortest run; the paper has a second in minutes."
)


def percent(figure: Mapping[str, Any]) -> str:
    """ "+12 [+8, +16]"."""
    value, low, high = (number(figure.get(key)) for key in ("value", "low", "high"))
    if value != value:
        return tables.MISSING
    return f"{value:+.0f}" if low != low else f"{value:+.0f} [{low:+.0f}, {high:+.0f}]"


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
                    " ".join(row["gains"]) or "nobody",
                    " ".join(row["pays"]) or "nobody",
                    str(row["intervals"]),
                ]
                for row in known
                if row["policy"] != "greedy"
            ]
            head = ["policy", *names, "mean", "gains", "pays", "intervals"]
            yield Table(f"{situation}, {world}", head, lines)


def best(found: Found, situation: str, *, world: str = "", smart: bool = True) -> tuple[Any, str]:
    """The largest gain of one domain there, and who has it under which policy; (None, "")."""
    top: tuple[Any, str] = (None, "")
    for row in found["rows"].values():
        if row["situation"] != situation or (world and row["world"] != world):
            continue
        if smart != row["policy"].startswith("smart-alloc") or row["policy"] == "greedy":
            continue
        for name, figure in row["domains"].items():
            value = number(figure["value"])
            if value == value and (top[0] is None or value > number(top[0]["value"])):
                top = figure, f"{name} under {row['policy']}"
    return top


def closing_lines(found: Found) -> list[str]:
    """How near each situation comes to the claim, runs that are too short, failures."""
    lines = [EXPLAINED, f"The claim: up to {CLAIMED_PERCENT} % for an application."]
    for world in dict.fromkeys(row["world"] for row in found["rows"].values()):
        for situation in found["situations"]:
            figure, who = best(found, situation, world=world)
            means = [
                number(row["mean"]["value"])
                for row in found["rows"].values()
                if (row["world"], row["situation"]) == (world, situation)
                and row["policy"].startswith("smart-alloc")
            ]
            known = [value for value in means if value == value]
            if figure is not None and known:
                most = f"{percent(figure)} % for {who}"
                lines.append(f"{situation}, {world}: most {most}; best mean {max(known):+.0f} %")
    short = [key for key, row in found["rows"].items() if row["intervals"] < INTERVALS_MIN]
    if short:
        lines.append(f"fewer than {INTERVALS_MIN} intervals: {', '.join(short)}")
    return [*lines, *found["errors"]]


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
