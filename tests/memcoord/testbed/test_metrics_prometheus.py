"""Names, rules and queries asked of a real Prometheus: ``apt-get install prometheus``."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from watched import BUSY, Run, hello

from hypervisor.public.feed import FEED_VERSION, Latencies
from memcoord.testbed.metrics import alerts, dashboard, table
from memcoord.testbed.metrics.exposition import Exposition
from memcoord.testbed.metrics.heard import Heard
from memcoord.testbed.metrics.server import serving

WAIT_S = 60.0
TOKEN = "a-token-of-the-test"
#: Every expression has a value then: somebody is starved, somebody is stuck, somebody is silent.
STARVED = BUSY | {"guest_stall_ns": 95 * 10**7, "puts": 1000, "puts_failed": 500, "refused": 9}
STARVED |= {"grants_ring": 50}


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here: apt-get install prometheus")
    return found


def promtool(*words: str, said: bytes = b"") -> None:
    done = subprocess.run(
        [tool("promtool"), *words], input=said, capture_output=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


class Told:
    """A run that goes on, as a reader hears it."""

    def __init__(self) -> None:
        self.run = Run(vm1=BUSY, vm2=STARVED, vm3=BUSY)
        self.run.shown["vm1"] = {"reach": "partial", "reach_why": "in use", "broken": True}
        self.run.shown["vm3"] = {"reach": "moving", "reach_why": "silent"}
        self.run.shown["vm3"] |= dict.fromkeys(
            ("guest_references", "guest_faults", "guest_stall_ns"), -1
        )
        self.heard = Heard("a-run")
        self.exposition = Exposition(self.heard, lambda: self.run.now_ns)

    def go(self, ticks: int = 1) -> None:
        self.heard.hear(hello(names=tuple(self.run.rates)))
        for _ in range(ticks):
            self.run.host["policy_faults"] = self.run.number
            self.heard.hear(self.run.tick())
        rows = self.run.latencies()
        self.heard.hear(Latencies(FEED_VERSION, self.run.now_ns, rows))


def test_promtool_finds_nothing_wrong_with_the_names() -> None:
    told = Told()
    told.go()
    text, _ = told.exposition.text()
    assert text.count(b"# TYPE") == len(table.METRICS)
    promtool("check", "metrics", said=text)


def of(metric: table.Metric, why: str = "") -> str:
    """One series of a metric, of vm1 where it is of a domain."""
    labels = ['domain="vm1"'] if "domain" in metric.labels else []
    labels += [f'why="{why}"'] if why else []
    return f"{metric.name}{{{','.join(labels)}}}"


#: Alerts, and series at which each fires by the 20th minute, or must not. Values are promtool's: a
#: step each 15 s, so that a counter of seconds that rises by 8 each is of one who waits half.
CASES: list[tuple[str, bool, dict[str, str]]] = [
    ("MemcoordNoTicks", True, {of(table.UP): "1 0x80"}),
    ("MemcoordNoTicks", False, {of(table.UP): "1x80"}),
    ("MemcoordDomainStarved", True, {of(table.STALLS): "0+8x80"}),
    ("MemcoordDomainStarved", True, {of(table.REQUESTS_REFUSED): "0+1x80"}),
    ("MemcoordDomainStarved", False, {of(table.STALLS): "0+7x80"}),
    ("MemcoordDomainStarved", False, {of(table.REQUESTS_REFUSED): "5x80"}),
    ("MemcoordTargetUnreached", True, {of(table.RAM_UNMET, "in use"): "1x80"}),
    ("MemcoordTargetUnreached", True, {
        of(table.RAM_UNMET, "in use"): "1x76 _x4", of(table.RAM_UNMET, "pinned"): "_x76 1x4"
    }),
    ("MemcoordTargetUnreached", False, {of(table.RAM_UNMET, "moving"): "1x80"}),
    ("MemcoordTargetUnreached", False, {of(table.RAM_UNMET, "in use"): "1x7 _x73"}),
    ("MemcoordPolicyFault", True, {of(table.POLICY_FAULTS): "0x70 1x10"}),
    ("MemcoordPolicyFault", False, {of(table.POLICY_FAULTS): "5x80"}),
    ("MemcoordDomainSilent", True, {
        of(table.RAM_UNMET, "silent"): "1x80", of(table.GROWN): "5x80", of(table.SHRUNK): "5x80"
    }),
    ("MemcoordDomainSilent", False, {of(table.RAM_UNMET, "silent"): "_x77 1x3"}),
    ("MemcoordDomainSilent", False, {
        of(table.RAM_UNMET, "silent"): "1x80", of(table.SHRUNK): "0+4096x80"
    }),
    ("MemcoordDomainUnreported", True, {of(table.REPORTING): "0x80"}),
    ("MemcoordDomainUnreported", False, {of(table.REPORTING): "1 0x20 1x59"}),
    ("MemcoordDomainBroken", True, {of(table.BROKEN): "0 1x79"}),
    ("MemcoordDomainBroken", False, {of(table.BROKEN): "0x80"}),
]  # fmt: skip
#: What an alert carries on of its series beside the domain.
CARRIED = {"MemcoordDomainSilent": {"why": "silent"}}


def case(name: str, fires: bool, series: dict[str, str]) -> dict[str, Any]:
    """A test as promtool takes it."""
    (alert,) = (one for one in alerts.ALERTS if one.name == name)
    labels = {"domain": "vm1"} if "$labels.domain" in alert.summary else {}
    texts = {"summary": alert.summary, "description": alert.text}
    expected = {
        "exp_labels": {"severity": alert.severity} | labels | CARRIED.get(name, {}),
        "exp_annotations": {
            key: text.replace("{{ $labels.domain }}", "vm1") for key, text in texts.items()
        },
    }
    told = {"eval_time": "20m", "alertname": name, "exp_alerts": [expected] if fires else []}
    return {
        "interval": "15s",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "alert_rule_test": [told],
    }


def test_every_alert_fires_when_it_is_to_and_only_then(tmp_path: Path) -> None:
    assert {(name, fires) for name, fires, _ in CASES} == {
        (alert.name, fires) for alert in alerts.ALERTS for fires in (True, False)
    }
    (tmp_path / "rules.yml").write_text(alerts.rules(), encoding="utf-8")
    promtool("check", "rules", str(tmp_path / "rules.yml"))
    tests = {"rule_files": ["rules.yml"], "evaluation_interval": "15s"}
    cases = [case(*one) for one in CASES]
    (tmp_path / "cases.yml").write_text(json.dumps(tests | {"tests": cases}), encoding="utf-8")
    promtool("test", "rules", str(tmp_path / "cases.yml"))


@contextmanager
def prometheus(directory: Path, scraped: int) -> Iterator[Callable[[str], Any]]:
    """A server that scrapes ``scraped`` each second; a function that asks its HTTP interface."""
    (directory / "token").write_text(TOKEN, encoding="utf-8")
    (directory / "rules.yml").write_text(alerts.rules(), encoding="utf-8")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {
                "job_name": "memcoord",
                "authorization": {"credentials_file": "token"},
                "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}],
            }
        ],
    }
    (directory / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                tool("prometheus"), f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={address}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip

    def ask(what: str, **words: str) -> Any:
        url = f"http://{address}/api/v1/{what}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
            return json.load(answer)["data"]

    try:
        yield ask
    finally:
        process.kill()
        process.wait(WAIT_S)


def wait_for(found: Callable[[], Any]) -> Any:
    """What it finds, once it is something."""
    until = time.monotonic() + WAIT_S
    while True:
        with suppress(OSError):
            if value := found():
                return value
        assert time.monotonic() < until, "there was no answer in time"
        time.sleep(0.1)


#: Of the alerts; the run ticks, so that one has no answer here.
EXPRESSIONS = [alert.expr for alert in alerts.ALERTS if alert.name != "MemcoordNoTicks"]


#: Of the dashboard, as Grafana sends them where all is chosen.
QUERIES = [
    target["expr"]
    .replace("$__rate_interval", "10s")
    .replace("$instance", ".*")
    .replace("$domain", ".*")
    for panel in dashboard.dashboard()["panels"]
    for target in panel["targets"]
]


@pytest.mark.process
@pytest.mark.slow
def test_a_real_prometheus_has_an_answer_to_every_query(tmp_path: Path) -> None:
    tool("prometheus")
    told = Told()
    told.go()
    with (
        serving(told.exposition, 0, TOKEN) as port,
        prometheus(tmp_path, port) as ask,
    ):

        def answer(query: str) -> Any:
            """The values that are numbers: a quantile of nothing is none."""
            told.go()
            found = ask("query", query=query)["result"]
            return [one for one in found if one["value"][1] != "NaN"]

        for query in (*QUERIES, *EXPRESSIONS):
            assert wait_for(lambda query=query: answer(query))
        (group,) = ask("rules")["groups"]
        assert [rule["name"] for rule in group["rules"]] == [one.name for one in alerts.ALERTS]
        assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
