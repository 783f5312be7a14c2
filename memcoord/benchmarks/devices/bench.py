"""``memcoord bench mechanisms --qemu``: the real devices of a guest beside our models of them.

Owns: the bench, its table, and what is said below it. What can be compared is the shape: whether a
size changes in steps or at once, how far it comes when the guest uses its memory, and what of it
the host has back. Seconds of an emulated guest are no seconds of a device, which the table says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from memcoord.benchmarks import cpus, tables
from memcoord.benchmarks.devices import models
from memcoord.benchmarks.devices.measures import HELD_MIB, MOVE_MIB, Measures
from memcoord.benchmarks.runner import Bench, Result
from memcoord.benchmarks.tables import MISSING, Table
from memcoord.testbed.machines import accelerator
from memcoord.testbed.machines.image.build import image
from memcoord.testbed.report.progress import Progress
from memcoord.testbed.runs.rundir import RunDir

#: What every table of figures under emulation says.
NOT_THE_DEVICE = "TCG: speeds are not the device's"
#: What a host keeps behind an unplugged part is a page table or so; more is a guest that cheats.
NOTICED_MIB = 1.0
STAGES = 5
HEAD = ("step", "seconds", "least step", "reached", "host has back")


class DevicesBench(Bench):
    """Each device and each model, once: shapes do not vary."""

    name = "devices"

    def measure(self, where: RunDir | Path, progress: Progress) -> dict[str, Any]:
        """All rows; ConfigError where there is no image, GuestFailed where no guest boots."""
        progress.begin("bench mechanisms --qemu", STAGES)
        stage = iter(range(STAGES))

        def told(what: str) -> None:
            progress.advance(next(stage, STAGES), STAGES, what)

        made = image(tell=lambda line: None)
        found = asyncio.run(accelerator.probe(made.kernel, made.initrd))
        measures = Measures(made.kernel, made.initrd, found.accelerator, told)
        asyncio.run(measures.all())
        told("models")
        modelled = models.measured()
        progress.advance(STAGES, STAGES)
        return {
            "bench": self.name,
            "machine": cpus.finish(cpus.describe(cpus.pair())),
            "accelerator": found.accelerator,
            "kernel": made.facts.kernel,
            "rows": measures.rows,
            "models": modelled,
            "facts": measures.facts,
            "claims": judged(measures.facts),
        }

    def tables(self, result: Result) -> Iterator[Table]:
        """Devices and models, a row for each step."""
        told = f"; {NOT_THE_DEVICE}" if result["accelerator"] == "tcg" else ""
        title = f"{MOVE_MIB} MiB of a guest's memory moved, {HELD_MIB} MiB used"
        yield Table(f"real devices, {title}{told}", HEAD, _lines(result["rows"]))
        yield Table("our models of them, in a process", HEAD, _lines(result["models"]))

    def lines(self, result: Result) -> list[str]:
        """What was found beside the table, a line for each."""
        facts = result["facts"]
        return [
            f"accelerator: {result['accelerator']}; guest: {result['kernel']}",
            f"finest step of virtio-mem: {facts['finest_mib']:.0f} MiB",
            f"one node grew by {facts['node_grew_mib']:.0f} MiB and went back, the other changed "
            f"by {facts['other_node_changed_mib']:.0f}",
            f"a guest that rebooted was given {facts['after_reboot_mib']:.0f} of "
            f"{facts['asked_of_reboot_mib']:.0f} MiB that were asked for",
            f"a guest that used an unplugged device: {facts['cheat_plugged_mib']:.0f} MiB plugged, "
            f"{facts['cheat_resident_mib']:.0f} MiB of host memory seen behind it",
        ]

    def parts(self, result: Result) -> dict[str, str]:
        """Both tables and the lines, as one part of the page."""
        if not result:
            return {"devices": ""}
        text = []
        for table in self.tables(result):
            text += [f"**{table.title}**", "", *tables.markdown(table)[2:], ""]
        return {"devices": "\n".join([*text, *(f"- {line}" for line in self.lines(result))])}


def judged(facts: Mapping[str, float]) -> dict[str, float]:
    """Figures of claims: 1 for what holds. Pure."""
    apart = facts["node_grew_mib"] > 0 and facts["other_node_changed_mib"] == 0
    back = facts["node_left_mib"] == 0
    cheat = facts["cheat_resident_mib"] - facts["cheat_plugged_mib"]
    return {
        "finest_mib": facts["finest_mib"],
        "nodes_apart": float(apart and back),
        "reboot": float(facts["after_reboot_mib"] == facts["asked_of_reboot_mib"]),
        "unnoticed": float(cheat < NOTICED_MIB),
    }


def _lines(rows: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            name,
            _number(row.get("done_s"), 3),
            _number(row.get("least_step_mib"), 2, " MiB"),
            "all" if row["is_reached"] else f"{_number(row.get('reached_mib'), 0)} MiB, no more",
            _number(row.get("returned_mib"), 0, " MiB"),
        ]
        for name, row in rows.items()
    ]


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return MISSING if value is None else f"{value:.{digits}f}{unit}"
