"""The text that Prometheus reads, written by prometheus_client (extra ``metrics``).

Owns: the two forms, Prometheus' own and OpenMetrics, and which of them is asked for. The families
are made anew for each scrape, so that a domain that left is gone at once. The library is imported
when a text is made, never before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from hypervisor.public.errors import MemcoordError
from memcoord.testbed.metrics import table, values
from memcoord.testbed.metrics.heard import Heard
from memcoord.testbed.metrics.values import Family, Histogram

if TYPE_CHECKING:
    from prometheus_client import Metric as ClientMetric

PLAIN, OPEN = "text/plain; version=0.0.4; charset=utf-8", "application/openmetrics-text"
OPEN_TYPE = f"{OPEN}; version=1.0.0; charset=utf-8"


class NoMetrics(MemcoordError):
    """prometheus_client is not installed; the text says how to install it."""


class Exposition:
    """What was heard, as text. NoMetrics without prometheus_client. Used from any thread."""

    def __init__(self, heard: Heard, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        try:
            from prometheus_client import CollectorRegistry
        except ImportError:
            raise NoMetrics(
                "metrics need prometheus_client: pip install 'memcoord[metrics]'"
            ) from None
        self._heard, self._clock_ns = heard, clock_ns
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def collect(self) -> Iterator[ClientMetric]:
        """API: what prometheus_client calls at each scrape."""
        for family in values.families(self._heard.look(), self._clock_ns()):
            if family.values:
                yield _client_family(family)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """The text and its type, in the form that the HTTP header ``accept`` asks for."""
        if OPEN in accept:
            from prometheus_client.openmetrics import exposition as open_form

            make: Callable[[Any], bytes] = open_form.generate_latest
            return make(self._registry), OPEN_TYPE
        from prometheus_client import generate_latest

        return generate_latest(self._registry), PLAIN


def _client_family(family: Family) -> ClientMetric:
    from prometheus_client import core

    metric = family.metric
    if metric.kind == table.INFO:
        info = core.InfoMetricFamily(metric.name.removesuffix("_info"), metric.help)
        for labels in family.values:
            info.add_metric([], dict(zip(metric.labels, labels, strict=True)))
        return info
    makers: dict[str, Callable[..., Any]] = {
        table.GAUGE: core.GaugeMetricFamily,
        table.COUNTER: core.CounterMetricFamily,
        table.HISTOGRAM: core.HistogramMetricFamily,
    }
    made = makers[metric.kind](metric.name, metric.help, labels=metric.labels, unit=metric.unit)
    for labels, value in family.values.items():
        if isinstance(value, Histogram):
            bounds = [(_bound(bound), float(count)) for bound, count in value.buckets]
            made.add_metric(labels, bounds, value.sum_s)
        else:
            made.add_metric(labels, value)
    return made  # type: ignore[no-any-return]


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == float("inf") else repr(seconds)
