"""Pages of what a scenario, a grid of a sweep and a hypervisor's configuration may say.

Owns: which tables there are, and their headings. Every key, bound and default comes from the
structs that read the files.
"""

from __future__ import annotations

from typing import get_args

import msgspec

from hypervisor import config
from memcoord.benchmarks.sweep import grid
from memcoord.reference.fields import HEADS, described, fields_of
from memcoord.reference.markdown import code, page, table
from memcoord.simulation import costs
from memcoord.testbed.scenarios import schema, workloads

#: Table of a scenario file -> its struct.
TABLES: dict[str, type[msgspec.Struct]] = {
    "the file itself": schema.Scenario,
    "[[domain]]": schema.Domain,
    "start_when": schema.StartWhen,
    "[[claim]]": schema.Claim,
    "[disk]": schema.Disk,
    "[costs]": schema.Costs,
}
#: The same of ``hypervisor.json``.
CONFIGURATION: dict[str, type[msgspec.Struct]] = {
    "the file itself": config.HypervisorConfig,
    "domains": config.DomainConfig,
    "banks": config.BankConfig,
}


def kinds() -> dict[str, type[msgspec.Struct]]:
    """Every kind of workload, by the ``kind`` in the file."""
    return {str(one.__struct_config__.tag): one for one in get_args(workloads.Workload)}


def scenario_page() -> str:
    """Keys of a scenario."""
    shipped = ", ".join(f"`{name}`" for name in schema.all_shipped())
    return page(
        "Scenario keys",
        "A scenario is a TOML file: one host, its domains, the policies to compare. Copy a shipped "
        f"one and change it. Shipped: {shipped}.",
        'Sizes are texts such as `"64 MiB"` or `"512 pages"`, or bytes ([units](units.md)). '
        "`memcoord run my.toml --set 'domain[0].ram=4 MiB'` changes a key for one run.",
        *_tables(TABLES),
    )


def workload_page() -> str:
    """Kinds of workload and their keys."""
    found = kinds()
    rows = [(f"[`{name}`](#{name})", _first(kind)) for name, kind in found.items()]
    return page(
        "Workload kinds",
        "A domain's `workload` is a table whose `kind` says which; its other keys are those below.",
        table(("kind", "what it does"), rows),
        *(part for name, kind in found.items() for part in (f"## {name}", described(kind))),
    )


def configuration_page() -> str:
    """Keys of ``hypervisor.json``."""
    return page(
        "Hypervisor configuration",
        "`memcoord hypervisor FILE` takes a scenario, or this: a JSON file. Frames and pages have "
        "4 KiB. Without a file it serves a host that is open to any domain.",
        *_tables(CONFIGURATION),
    )


def sweep_page() -> str:
    """Keys of a sweep's grid."""
    return page(
        "Sweep grids",
        "`memcoord sweep GRID.toml` runs every combination of what the file names.",
        "## [sweep]",
        described(grid.SweepTable),
        "## Other tables",
        described(grid.Grid),
        "## Cost sets",
        "`memcoord sim --costs FILE` takes a TOML file with these keys, in microseconds where they "
        f"end in `_us`; shipped are {', '.join(f'`{name}`' for name in costs.shipped())}. A list "
        f"of {' or '.join(f'`{name}`' for name in costs.DISTRIBUTIONS)} is a distribution.",
        _cost_rows(),
    )


def _cost_rows() -> list[str]:
    rows = []
    for field in fields_of(costs.Costs):
        name, default = field.name, field.default.strip("`")
        if name.endswith("_ns"):
            name, default = f"{name.removesuffix('_ns')}_us", f"{int(default) / costs.NS_PER_US:g}"
        rows.append((code(name), field.kind, code(default), field.says))
    return table(HEADS, rows)


def _tables(tables: dict[str, type[msgspec.Struct]]) -> list[str | list[str]]:
    return [
        part for title, kind in tables.items() for part in (f"## {_title(title)}", described(kind))
    ]


def _title(text: str) -> str:
    return text if text.islower() and " " in text else f"`{text}`"


def _first(kind: type[msgspec.Struct]) -> str:
    return described(kind)[0].split(". ")[0].rstrip(".") + "."
