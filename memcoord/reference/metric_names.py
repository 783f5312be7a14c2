"""The page of metrics: what ``memcoord metrics`` exports.

Owns: nothing but the page; there is none as long as the product has no table of metrics.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from memcoord.reference.markdown import code, page, prose, table

TABLE = "memcoord.testbed.metrics.table"


def metrics() -> list[Any]:
    """Every metric, in the order in which they are exported; none where there is no table."""
    package = TABLE.rpartition(".")[0]
    if find_spec(package) is None or find_spec(TABLE) is None:
        return []
    return list(import_module(TABLE).METRICS)


def metric_page() -> str:
    """Names, kinds, units and labels."""
    if not metrics():
        return page("Metrics", "This version exports none.")
    rows = [
        (code(one.name), one.kind, one.unit, ", ".join(map(code, one.labels)), prose(one.help))
        for one in metrics()
    ]
    heads = ("metric", "kind", "unit", "labels", "what it is")
    return page(
        "Metrics",
        "`memcoord metrics` exports these for Prometheus.",
        table(heads, rows),
    )
