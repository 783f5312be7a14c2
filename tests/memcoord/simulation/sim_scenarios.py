"""Small scenarios for tests of the simulator, in virtual time a second or two."""

from __future__ import annotations

from typing import Any

from memcoord.testbed.scenarios.schema import Scenario, parse


def domain(name: str, kind: dict[str, Any], **options: Any) -> dict[str, Any]:
    plain = {"name": name, "maxmem": "8 MiB", "ram": "2 MiB", "workload": kind}
    return plain | options


def loop(pages: int, repeat: int, resident: int = 200) -> dict[str, Any]:
    return {
        "kind": "loop",
        "size": f"{pages} pages",
        "repeat": repeat,
        "resident": f"{resident} pages",
    }


def scenario(*domains: dict[str, Any], **options: Any) -> Scenario:
    plain = {"name": "test", "memory": "16 MiB", "slack": "2 MiB", "interval_ms": 50}
    return parse(plain | options | {"domain": list(domains)})


def contest(**options: Any) -> Scenario:
    """Two that loop over more than they hold, then a third: 1,100 pages beyond RAM for 1,024."""
    return scenario(
        domain("vm1", loop(700, 30)),
        domain("vm2", loop(700, 30)),
        domain("vm3", loop(700, 30), start_when={"domain": "vm1", "done": 0.3}),
        tmem="4 MiB",
        **options,
    )
