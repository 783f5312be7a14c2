"""A Grafana dashboard of the exported metrics, as JSON that Grafana imports and provisions.

Owns: which panels there are, and their queries, which take every name from ``table``. Pure. The
data source is a variable of the dashboard: a name that only an import resolves would show nothing
where a file provisions the dashboard. Ranges are ``$__rate_interval``, which fits any interval of
scrapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memcoord.testbed.metrics import table
from memcoord.testbed.metrics.table import Metric

UID = "memcoord"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
RANGE = "[$__rate_interval]"
#: What the variables of the dashboard choose.
HOST, DOMAIN = 'instance=~"$instance"', 'instance=~"$instance",domain=~"$domain"'
WIDE, HEIGHT, COLUMNS = 12, 8, 24
SMALL_HEIGHT = 4


@dataclass(frozen=True)
class Panel:
    """One panel. ``queries``: each with what its lines are called. ``words``: for 0, 1, ..."""

    title: str
    unit: str
    text: str
    queries: tuple[tuple[str, str], ...]
    is_stacked: bool = False
    is_log: bool = False
    is_number: bool = False
    words: tuple[str, ...] = ()


def _of(metric: Metric, chosen: str, suffix: str = "") -> str:
    return f"{metric.name}{suffix}{{{chosen}}}"


def _rate(metric: Metric, chosen: str = DOMAIN, suffix: str = "") -> str:
    return f"rate({_of(metric, chosen, suffix)}{RANGE})"


def _increase(metric: Metric, chosen: str) -> str:
    return f"increase({_of(metric, chosen)}{RANGE})"


def _quantile(q: float) -> tuple[str, str]:
    rates = _rate(table.GRANT_SECONDS, suffix="_bucket")
    query = f"histogram_quantile({q}, sum by (le, path, word) ({rates}))"
    return query, f"p{round(100 * q)} {{{{path}}}}, {{{{word}}}}'s word"


PANELS = (
    Panel(
        "Feed",
        "none",
        "Whether ticks of the hypervisor arrive.",
        ((_of(table.UP, HOST), "feed"),),
        is_number=True,
        words=("no ticks", "live"),
    ),
    Panel(
        "Age of the last tick",
        "s",
        "Above five intervals it is no news, and all other metrics end.",
        ((_of(table.AGE, HOST), "age"),),
        is_number=True,
    ),
    Panel(
        "Share of time each domain waits for memory",
        "percentunit",
        "By the domain's own word; 1: it does nothing but wait. From half on it is starved.",
        ((_rate(table.STALLS), "{{domain}}"),),
    ),
    Panel(
        "Memory of the host",
        "bytes",
        "By use; together it is all there is.",
        ((_of(table.MEMORY, HOST), "{{use}}"),),
        is_stacked=True,
    ),
    Panel(
        "RAM held and wanted",
        "bytes",
        "Dashed: the target.",
        (
            (_of(table.RAM, DOMAIN), "{{domain}}"),
            (_of(table.RAM_TARGET, DOMAIN), "{{domain}} target"),
        ),
    ),
    Panel(
        "tmem held and allowed",
        "bytes",
        "Dashed: the target. No dashed line: no limit.",
        (
            (_of(table.TMEM, DOMAIN), "{{domain}}"),
            (_of(table.TMEM_TARGET, DOMAIN), "{{domain}} target"),
        ),
    ),
    Panel(
        "Pages read from disk",
        "ops",
        "A second. More memory would have saved them.",
        ((_rate(table.SWAP_INS), "{{domain}}"),),
    ),
    Panel(
        "Puts that tmem refused",
        "percentunit",
        "Of all puts.",
        ((f"{_rate(table.PUTS_REFUSED)} / {_rate(table.PUTS)}", "{{domain}}"),),
    ),
    Panel(
        "Grants by path",
        "ops",
        "Areas of 2 MiB a second. Nobody waits for credit.",
        ((f"sum by (path) ({_rate(table.GRANTS)})", "{{path}}"),),
    ),
    Panel(
        "What a grant costs",
        "s",
        "Median and 99th percentile, by path and by whose word it is.",
        (_quantile(0.5), _quantile(0.99)),
        is_log=True,
    ),
    Panel(
        "Requests for RAM that got none",
        "ops",
        "A second. Who has any is starved.",
        ((_rate(table.REQUESTS_REFUSED), "{{domain}}"),),
    ),
    Panel(
        "Targets of RAM that are not reached",
        "short",
        "1, and why. `memcoord top --domain VM` tells more.",
        ((_of(table.RAM_UNMET, DOMAIN), "{{domain}}: {{why}}"),),
    ),
    Panel(
        "Faults of the policy",
        "short",
        "Ticks at which it failed; its last valid plan stood.",
        ((_increase(table.POLICY_FAULTS, HOST), "faults"),),
    ),
    Panel(
        "Rules that domains broke",
        "short",
        "Bad requests, and areas used without a grant.",
        (
            (_increase(table.BAD_REQUESTS, DOMAIN), "{{domain}}: requests"),
            (_increase(table.VIOLATIONS, DOMAIN), "{{domain}}: areas"),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana's JSON model."""
    return {
        "id": None,
        "uid": UID,
        "title": "memcoord",
        "description": "Made by `memcoord metrics --dashboard`.",
        "tags": ["memcoord"],
        "schemaVersion": 39,
        "version": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "templating": {"list": _variables()},
        "panels": [
            _panel(number, panel, place)
            for number, (panel, place) in enumerate(zip(PANELS, _places(), strict=True), start=1)
        ],
    }


def _variables() -> list[dict[str, Any]]:
    chosen = {"text": "All", "value": "$__all"}
    several = {"refresh": 2, "multi": True, "includeAll": True, "allValue": ".*", "sort": 1}
    found: list[dict[str, Any]] = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    ]
    for name, label, of in (
        ("instance", "Host", table.UP.name),
        ("domain", "Domain", _of(table.RAM, HOST)),
    ):
        query = f"label_values({of}, {name})"
        own = {"name": name, "label": label, "type": "query", "query": query}
        found.append(own | {"datasource": SOURCE, "current": chosen} | several)
    return found


def _places() -> list[dict[str, int]]:
    """Where each panel is: two in a row; a number is lower than a graph."""
    found, x, y = [], 0, 0
    for panel in PANELS:
        height = SMALL_HEIGHT if panel.is_number else HEIGHT
        found.append({"h": height, "w": WIDE, "x": x, "y": y})
        x = (x + WIDE) % COLUMNS
        y += 0 if x else height
    return found


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "stacking": {"mode": "normal" if panel.is_stacked else "none"},
        "fillOpacity": 40 if panel.is_stacked else 0,
        "scaleDistribution": {"type": "log", "log": 10} if panel.is_log else {"type": "linear"},
    }
    words = {str(value): {"text": word} for value, word in enumerate(panel.words)}
    mappings = [{"type": "value", "options": words}] if words else []
    defaults: dict[str, Any] = {"unit": panel.unit, "mappings": mappings}
    if not panel.is_number:
        defaults |= {"custom": drawn} | ({} if panel.is_log else {"min": 0})
    dashed = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [6, 4]}}
    targets = [
        {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": query, "legendFormat": legend}
        for at, (query, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": "stat" if panel.is_number else "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": defaults,
            "overrides": [
                {"matcher": {"id": "byRegexp", "options": ".* target"}, "properties": [dashed]}
            ],
        },
        "targets": targets,
    }
