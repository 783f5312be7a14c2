"""``memcoord tmem-list``: the pages each domain has in tmem, and its counters.

Owns: asking a live hypervisor for tmem's statistics, and their two forms, one line per domain (as
``xl tmem-list`` had) and every counter. Returns plain values and lines; the command prints them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memcoord.testbed.runs import control_client

#: Columns of the short form: the heading, its width (below 0: to the left), the client's counter.
COLUMNS = (
    ("NAME", -12, "name"),
    ("ID", 3, "client"),
    ("WEIGHT", 7, "weight"),
    ("FROZEN", 6, "is_frozen"),
    ("POOLS", 5, "pool_count"),
    ("EPHEMERAL", 9, "ephemeral_pages"),
    ("PERSISTENT", 10, "persistent_pages"),
    ("PUTS", 9, "puts"),
    ("GETS", 9, "gets"),
    ("HITS", 9, "gets_hit"),
    ("EVICTED", 8, "evicted"),
)
#: Columns of counters in the long form, of this width.
LONG_WIDTH, LONG_COLUMNS = 32, 3


def collect(run_dir: Path, *, with_pools: bool) -> dict[str, Any]:
    """``host`` and ``clients``, each with its counters and, if asked for, its ``pools``."""
    found: dict[str, Any] = control_client.call(run_dir, "tmem-list", domain="")
    if with_pools:
        found["clients"] = [_with_pools(run_dir, client) for client in found["clients"]]
    return found


def _with_pools(run_dir: Path, client: dict[str, Any]) -> dict[str, Any]:
    try:
        of_one = control_client.call(run_dir, "tmem-list", domain=client["name"])
    except control_client.Refused:  # it has left meanwhile
        return client | {"pools": []}
    return client | {"pools": of_one["pools"]}


def lines(found: dict[str, Any], *, long: bool) -> list[str]:
    """The findings of ``collect`` as lines."""
    host, clients = found["host"], found["clients"]
    pages = f"{host['used_pages']:,} pages in {host['held_pages']:,} pages of memory"
    told = [f"tmem: {pages}, {host['free_pages']:,} free; {host['evicted']:,} evicted"]
    if long:
        told += _counters("  ", host)
        for client in clients:
            told += _long(client)
        return told
    told.append(_row([heading for heading, _, _ in COLUMNS]))
    told += [_row([_cell(client, key) for _, _, key in COLUMNS]) for client in clients]
    return told


def _long(client: dict[str, Any]) -> list[str]:
    told = [f"domain {client['name']} (id {client['client']})", *_counters("  ", client)]
    for pool in client["pools"]:
        kind = "persistent" if pool["is_persistent"] else "ephemeral"
        slots = ", ".join(f"{domid}:{slot}" for domid, slot in pool["sharers"])
        sharing = f"shared by {slots}" if pool["is_shared"] else "private"
        told += [f"  pool {pool['slot']} ({kind}, {sharing})", *_counters("    ", pool)]
    return told


def _counters(indent: str, values: dict[str, Any]) -> list[str]:
    """Every number, by name, in columns."""
    cells = [f"{key} {value:,}" for key, value in values.items() if type(value) is int]
    rows = [cells[at : at + LONG_COLUMNS] for at in range(0, len(cells), LONG_COLUMNS)]
    return [indent + "".join(f"{cell:{LONG_WIDTH}}" for cell in row).rstrip() for row in rows]


def _row(cells: list[str]) -> str:
    widths = [width for _, width, _ in COLUMNS]
    parts = [
        f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}"
        for cell, width in zip(cells, widths, strict=True)
    ]
    return " ".join(parts)


def _cell(client: dict[str, Any], key: str) -> str:
    value = client[key]
    if key.startswith("is_"):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
