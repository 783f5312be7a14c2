"""``memcoord tmem-list``: the pages each domain has in tmem, and its counters.

Owns: asking a live hypervisor for tmem's statistics, and their two forms, one line per domain (as
``xl tmem-list`` had) and every counter. Returns plain values and lines; the command prints them.
"""

from pathlib import Path
from typing import Any

from memcoord.testbed.runs import control_client
from memcoord.testbed.watch.cells import mib, named, number

#: Columns of the short form: two lines of heading, its width (below 0: to the left), the client's
#: counter. With a space between them 80 columns.
COLUMNS = (
    ("", "NAME", -12, "name"),
    ("", "ID", 2, "client"),
    ("", "WEIGHT", 6, "weight"),
    ("", "FROZEN", 6, "is_frozen"),
    ("", "POOLS", 5, "pool_count"),
    ("EPHEM", "MiB", 7, "ephemeral_pages"),
    ("PERSIST", "MiB", 7, "persistent_pages"),
    ("", "PUTS", 6, "puts"),
    ("", "GETS", 6, "gets"),
    ("", "HITS", 6, "gets_hit"),
    ("", "EVICTED", 7, "evicted"),
)
#: Columns of counters in the long form, of this width.
LONG_WIDTH, LONG_COLUMNS = 39, 2


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
    held, free = mib(host["held_pages"]), mib(host["free_pages"])
    told = [
        f"tmem: {host['used_pages']:,} pages in {held} MiB of memory, {free} MiB free; "
        f"{host['evicted']:,} evicted"
    ]
    if long:
        told += _counters("  ", host)
        for client in clients:
            told += _long(client)
        return told
    told.append(_row([unit for unit, *_ in COLUMNS]).rstrip())
    told.append(_row([heading for _, heading, *_ in COLUMNS]).rstrip())
    told += [_row([_cell(client, key, width) for *_, width, key in COLUMNS]) for client in clients]
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
    parts = [
        f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}"
        for cell, (*_, width, _) in zip(cells, COLUMNS, strict=True)
    ]
    return " ".join(parts)


def _cell(client: dict[str, Any], key: str, width: int) -> str:
    value = client[key]
    if key.startswith("is_"):
        return "yes" if value else "no"
    if not isinstance(value, int):
        return named(str(value), abs(width))
    return mib(value, width) if key.endswith("_pages") else number(value, width)
