"""The page of metrics: what ``memcoord metrics`` exports.

Owns: nothing but the page; the exporter's table says all of it.
"""

from __future__ import annotations

from memcoord.reference.markdown import code, page, prose, table
from memcoord.testbed.metrics.table import METRICS


def metric_page() -> str:
    """Names, kinds, units and labels."""
    rows = [
        (code(one.name), one.kind, one.unit, ", ".join(map(code, one.labels)), prose(one.help))
        for one in METRICS
    ]
    return page(
        "Metrics",
        "`memcoord metrics` exports these for Prometheus. A histogram ends in `_bucket`, `_count` "
        "and `_sum`. [Metrics for Prometheus](../metrics.md) says how to scrape them.",
        table(("metric", "kind", "unit", "labels", "what it is"), rows),
    )
