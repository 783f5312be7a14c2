"""Metrics: names and values, read back with the parsers of prometheus_client, in both forms."""

from __future__ import annotations

import math
import re
import time
from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypervisor_host import AREA, WAIT_S, Host
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_plain
from watched import BUSY, MIB, Run, hello

import frontend
from hypervisor.coordination.feed import DOMAIN_COLUMNS, HOST_COLUMNS
from hypervisor.public.feed import FEED_VERSION, Latencies, LatencyRow
from hypervisor.public.latency import BUCKETS, bucket_low_ns
from hypervisor.public.settings import NAME_CHARACTERS_MAX
from memcoord.testbed.metrics import alerts, dashboard, table
from memcoord.testbed.metrics.exposition import Exposition
from memcoord.testbed.metrics.heard import Heard
from memcoord.testbed.metrics.values import DOMAINS_MAX, histogram
from memcoord.testbed.watch.reader import FeedReader

PAGE = 4096
FORMS = {"": parse_plain, "application/openmetrics-text": parse_open}
LOWS = [bucket_low_ns(bucket) for bucket in range(BUCKETS)]
#: Ours in an expression of Prometheus.
NAME = re.compile(r"\bmemcoord_\w+")
Values = dict[tuple[str, ...], float]


def heard_of(run: Run, ticks: int = 20, **counts: int) -> Heard:
    """What a reader heard of ``run`` by now."""
    heard = Heard("a-run")
    heard.hear(hello(names=tuple(run.rates)))
    for _ in range(ticks):
        heard.hear(run.tick())
    heard.hear(Latencies(FEED_VERSION, run.now_ns, run.latencies(**counts)))
    return heard


def text_of(heard: Heard, now_ns: int, accept: str = "") -> str:
    text, kind = Exposition(heard, lambda: now_ns).text(accept)
    assert kind.startswith(accept or "text/plain")
    return text.decode()


def read(text: str, parse: Any = parse_plain) -> dict[str, Values]:
    """The samples by name, and by the values of their labels in the order of the table."""
    order = {name: one.labels for one in table.METRICS for name in one.samples}
    found: dict[str, Values] = {}
    for family in parse(text):
        for sample in family.samples:
            labels = tuple(
                sample.labels[label] for label in (*order[sample.name], "le")
                if label in sample.labels
            )  # fmt: skip
            own = found.setdefault(sample.name, {})
            assert labels not in own, "a series is told once"
            own[labels] = sample.value
    return found


def scraped(run: Run, ticks: int = 20, **counts: int) -> dict[str, Values]:
    heard = heard_of(run, ticks, **counts)
    return read(text_of(heard, run.now_ns))


def test_the_feed_has_every_column_of_the_table() -> None:
    told = {*DOMAIN_COLUMNS, *HOST_COLUMNS, "policy_faults"}
    columns = {one.column for one in table.METRICS if one.column}
    assert columns | {*table.USES.values(), *table.PATHS.values()} <= told


@pytest.mark.parametrize("accept", FORMS)
def test_all_of_the_table_is_exported_and_nothing_else(accept: str) -> None:
    run = Run()
    run.shown["vm1"] = {"reach": "partial", "reach_why": "in use"}
    text = text_of(heard_of(run), run.now_ns, accept)
    found = {family.name: family for family in FORMS[accept](text)}
    cut = {table.COUNTER: "_total", table.INFO: "_info" if accept else ""}
    names = {one.name.removesuffix(cut.get(one.kind, "")): one for one in table.METRICS}
    assert found.keys() == names.keys()
    for name, one in names.items():
        family = found[name]
        assert family.type == (one.kind if accept or one.kind != table.INFO else table.GAUGE)
        assert family.documentation == one.help
        assert {sample.name for sample in family.samples} == {*one.samples}
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == {*one.labels}


def test_both_forms_say_the_same() -> None:
    run = Run()
    heard = heard_of(run)
    plain, open_ = (
        read(text_of(heard, run.now_ns, accept), parse) for accept, parse in FORMS.items()
    )
    assert plain == open_


def test_values_are_bytes_and_seconds() -> None:
    run = Run(vm1=BUSY | {"guest_stall_ns": 5 * 10**8, "grants_ring": 10})
    found = scraped(run)
    assert found["memcoord_domain_ram_bytes"] == {("vm1",): 2 * MIB * PAGE}
    assert found["memcoord_domain_ram_limit_bytes"] == {("vm1",): 4096 * PAGE}
    assert found["memcoord_domain_stall_seconds_total"][("vm1",)] == pytest.approx(1.0)
    assert found["memcoord_domain_grants_total"][("vm1", "ring")] == 20
    uses = found["memcoord_host_memory_bytes"]
    assert sum(uses.values()) == found["memcoord_host_memory_total_bytes"][()] == 24 * MIB * PAGE
    assert found["memcoord_tick_interval_seconds"] == {(): 0.1}
    assert found["memcoord_run_info"] == {("a-run", "main", "smart-alloc:P=2"): 1}


def test_what_is_not_known_is_absent() -> None:
    run = Run()
    run.shown["vm1"] = {"tmem_target_pages": -1, "guest_stall_ns": -1, "guest_swap_ins": -1}
    found = scraped(run)
    assert "memcoord_domain_tmem_target_bytes" not in found, "no limit is no size"
    assert "memcoord_domain_stall_seconds_total" not in found
    assert found["memcoord_domain_reporting"] == {("vm1",): 1}
    assert "memcoord_domain_ram_target_unmet" not in found
    run.shown["vm1"] |= {"guest_references": -1, "guest_faults": -1}
    assert scraped(run)["memcoord_domain_reporting"] == {("vm1",): 0}


@pytest.mark.parametrize(
    ("reach", "why", "told"),
    [("moving", "", "moving"), ("partial", "in use", "in use"), ("moving", "silent", "silent"),
     ("partial", "a word of a version to come", "moving")],
)  # fmt: skip
def test_why_a_target_is_not_reached_is_one_of_few_words(reach: str, why: str, told: str) -> None:
    run = Run()
    run.shown["vm1"] = {"reach": reach, "reach_why": why}
    assert scraped(run)["memcoord_domain_ram_target_unmet"] == {("vm1", told): 1}


def test_old_numbers_do_not_pass_for_new_ones() -> None:
    own = {"memcoord_up", "memcoord_feed_age_seconds", "memcoord_feed_unreadable_total"}
    run = Run()
    heard = heard_of(run)
    found = read(text_of(heard, run.now_ns + 3 * 10**9))
    assert found.keys() == own
    assert found["memcoord_up"] == {(): 0}
    assert found["memcoord_feed_age_seconds"] == {(): pytest.approx(3.0)}
    assert read(text_of(heard, run.now_ns + 10**9))["memcoord_up"] == {(): 1}
    heard.hear(run.tick())
    assert read(text_of(heard, run.now_ns))["memcoord_up"] == {(): 1}


def test_before_the_first_tick_there_is_no_age() -> None:
    heard = Heard()
    heard.garbled()
    found = read(text_of(heard, 0))
    assert found == {"memcoord_up": {(): 0}, "memcoord_feed_unreadable_total": {(): 1}}


def test_a_domain_that_left_is_gone_at_once() -> None:
    run = Run(vm1=BUSY, vm2=BUSY)
    heard = heard_of(run)
    assert read(text_of(heard, run.now_ns))["memcoord_domain_grant_seconds_count"]
    del run.rates["vm1"]
    heard.hear(run.tick())
    found = read(text_of(heard, run.now_ns))
    assert {labels[0] for name, own in found.items() if "_domain_" in name for labels in own} == {
        "vm2"
    }
    assert not [name for name in found if "grant_seconds" in name]
    run.rates["vm1"] = BUSY
    heard.hear(run.tick())
    found = read(text_of(heard, run.now_ns))
    assert len(found["memcoord_domain_ram_bytes"]) == 2
    assert "memcoord_domain_grant_seconds_count" not in found, "another one of the same name"


@pytest.mark.parametrize("how", ["policy", "hypervisor"])
def test_another_policy_or_hypervisor_counts_from_nothing(how: str) -> None:
    run = Run()
    heard = heard_of(run)
    if how == "policy":
        heard.hear(hello("2-fallow"))
        assert read(text_of(heard, run.now_ns))["memcoord_up"] == {(): 0}
    run.number = 0
    heard.hear(run.tick())
    found = read(text_of(heard, run.now_ns))
    assert found["memcoord_ticks_total"] == {(): 1}
    assert "memcoord_domain_grant_seconds_count" not in found


def test_what_a_message_holds_is_bounded() -> None:
    run = Run(**{f"vm{number}": BUSY for number in range(DOMAINS_MAX + 6)})
    heard = heard_of(run)
    heard.hear(hello("r" * 1000, names=tuple(run.rates)))
    heard.hear(run.tick())
    found = read(text_of(heard, run.now_ns))
    assert len(found["memcoord_domain_ram_bytes"]) == DOMAINS_MAX
    texts = (label for own in found.values() for labels in own for label in labels)
    assert max(map(len, texts)) <= 4 * NAME_CHARACTERS_MAX


def test_parts_of_latencies_add_up() -> None:
    run = Run(vm1=BUSY, vm2=BUSY)
    heard = heard_of(run, ring_guest=3)
    heard.hear(Latencies(FEED_VERSION, run.now_ns, [LatencyRow("vm2", "transfer", "host", {9: 4})]))
    found = read(text_of(heard, run.now_ns))["memcoord_domain_grant_seconds_count"]
    assert found == {("vm1", "ring", "guest"): 3, ("vm2", "transfer", "host"): 4}


@given(st.lists(st.integers(256, 1 << 35), max_size=50))
def test_a_histogram_counts_what_was_at_most_so_long(times_ns: list[int]) -> None:
    counts: dict[int, int] = {}
    for time_ns in times_ns:
        bucket = bisect_right(LOWS, time_ns) - 1
        counts[bucket] = counts.get(bucket, 0) + 1
    made = histogram(counts)
    for bound_s, count in made.buckets:
        assert count == sum(time_ns / 1e9 < bound_s for time_ns in times_ns)
    assert all(low[0] < high[0] for low, high in pairwise(made.buckets))
    assert made.buckets[-1] == (math.inf, len(times_ns))
    assert made.sum_s == pytest.approx(sum(times_ns) / 1e9, rel=1 / 8 + 1e-9)


def test_names_and_units_keep_the_conventions() -> None:
    names = [one.name for one in table.METRICS]
    assert len(names) == len({*names})
    for one in table.METRICS:
        assert re.fullmatch(r"memcoord(_[a-z]+)+", one.name)
        assert one.name.endswith("_total") == (one.kind == table.COUNTER)
        assert one.name.endswith("_info") == (one.kind == table.INFO)
        assert {*one.labels} <= {"domain", "path", "word", "use", "why", "run", "scenario",
                                 "policy"}  # fmt: skip
        assert not re.search(r"pages|frames|_ns|_ms|ratio", one.name), "base units"


QUERIES = [
    target["expr"] for panel in dashboard.dashboard()["panels"] for target in panel["targets"]
]
EXPORTED = {name for one in table.METRICS for name in one.samples}


@pytest.mark.parametrize("expression", [*QUERIES, *(alert.expr for alert in alerts.ALERTS)])
def test_an_expression_names_only_what_is_exported(expression: str) -> None:
    used = NAME.findall(expression)
    assert used
    assert {*used} <= EXPORTED


def test_the_dashboard_fits_any_grafana() -> None:
    made = dashboard.dashboard()
    assert made["id"] is None
    assert {one["name"] for one in made["templating"]["list"]} == {
        *("datasource", "instance", "domain")
    }
    places = set()
    for panel in made["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & places, "no panel lies on another"
        assert max(x for x, _ in cells) < dashboard.COLUMNS
        places |= cells
        for target in panel["targets"]:
            ranges = re.findall(r"\[[^]]*\]", target["expr"])
            assert {*ranges} <= {dashboard.RANGE}, "a fixed range fits one interval of scrapes"
    numbers = [panel["id"] for panel in made["panels"]]
    assert numbers == [*range(1, len(numbers) + 1)]


def test_the_rules_are_yaml_with_every_alert() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    (group,) = yaml.safe_load(alerts.rules())["groups"]
    assert [
        (rule["alert"], rule["expr"], rule["annotations"]["summary"]) for rule in group["rules"]
    ] == [(alert.name, alert.expr, alert.summary) for alert in alerts.ALERTS]
    assert {alert.severity for alert in alerts.ALERTS} <= {"info", "warning", "critical"}


@pytest.mark.process
def test_a_real_hypervisor_is_exported(start: Callable[..., Host]) -> None:
    host = start(policy="static-alloc", scenario="mine")
    heard, words = Heard("mine"), set[str]()
    until = time.monotonic() + WAIT_S
    with FeedReader(host.run_dir) as reader:
        reader.subscribe()
        with frontend.attach(host.run_dir, name="vm1", maxmem_frames=4 * AREA) as dom:
            dom.alloc_many(3 * AREA)
            while words != {"guest", "host"}:
                assert time.monotonic() < until, heard.look()
                for message in reader.read(100):
                    heard.hear(message)
                words = {word for _, _, word in heard.look().counts}
            found = read(text_of(heard, time.monotonic_ns()))
    told = {"memcoord_domain_ram_target_unmet"}
    told |= {f"memcoord_domain_{what}_total" for what in ("references", "faults", "swap_ins")}
    told |= {f"memcoord_domain_{what}_total" for what in ("swap_outs", "stall_seconds")}
    assert EXPORTED - found.keys() <= told, "a guest that pages nothing reports nothing"
    assert found["memcoord_domain_ram_bytes"][("vm1",)] >= 3 * AREA * PAGE
    assert found["memcoord_run_info"] == {("mine", "mine", "static-alloc"): 1}
