"""The real hypervisor process and real domains: attaching, dying, misbehaving, all at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypervisor_host import ANSWER_MS, AREA, WAIT_S, Host, all_is_back

import frontend
from hypervisor.config import DomainConfig
from hypervisor.public.errors import AttachRefused, MemcoordError, PeerGone
from memcoord.testbed.runs.control_client import Refused
from memcoord.testbed.watch.publications import Publication
from memcoord.testbed.watch.reader import FeedReader

pytestmark = pytest.mark.process
KILL_ROUNDS = 10
#: Touches frames that it never asked for until they are taken from it.
GREEDY = """
import sys, frontend
dom = frontend.attach(sys.argv[1], name=sys.argv[2], maxmem_frames=8192)
print("up", flush=True)
while True:
    for frame in range(2048, 8192):
        dom.memory[frame * 4096] = 1
"""


def test_memory_travels_and_comes_back(start: Callable[..., Host]) -> None:
    host = start()
    with frontend.attach(host.run_dir, name="vm1", maxmem_frames=8 * AREA) as dom:
        frames = dom.alloc_many(3 * AREA)
        assert len(frames) == 3 * AREA
        dom.view(frames[0])[:5] = b"hello"
        pool = dom.tmem.new_pool(persistent=True)
        assert dom.tmem.put(pool, (1, 2, 3), 4, frames[0]) == 1
        assert dom.tmem.get(pool, (1, 2, 3), 4, frames[1]) == 1
        assert bytes(dom.view(frames[1])[:5]) == b"hello"
        assert [d["name"] for d in host.ask("list")] == ["vm1"]
        dom.free_many(frames)
    host.wait(lambda: all_is_back(host.ask("statistics")))


def test_a_newcomer_is_planned_for_before_it_can_put(start: Callable[..., Host]) -> None:
    host = start(policy="static-alloc", interval_ms=60_000)
    with frontend.attach(host.run_dir, name="vm1", maxmem_frames=4 * AREA):
        (alone,) = host.ask("statistics")["domains"]
        assert alone["tmem_target_pages"] > 0
        with frontend.attach(host.run_dir, name="vm2", maxmem_frames=4 * AREA):
            first, second = host.ask("statistics")["domains"]
            assert first["tmem_target_pages"] == second["tmem_target_pages"] > 0
            assert first["tmem_target_pages"] < alone["tmem_target_pages"]
    assert host.ask("ping")["ticks"] <= 1


def test_a_killed_domain_leaves_nothing_and_the_others_notice_nothing(
    start: Callable[..., Host],
) -> None:
    host = start()
    with frontend.attach(host.run_dir, name="bystander", maxmem_frames=2 * AREA) as dom:
        frame = dom.alloc()
        dom.view(frame)[:] = b"\xa5" * 4096
        for round_ in range(3):
            victims = [host.busy(f"victim{round_}_{i}") for i in range(2)]
            time.sleep(0.1)
            for victim in victims:
                victim.kill()
            host.wait(lambda: [d["name"] for d in host.ask("list")] == ["bystander"])
        assert bytes(dom.view(frame)[:]) == b"\xa5" * 4096
        host.wait(lambda: only_has_what_is_listed(host.ask("statistics")))
        assert len(host.events("detached")) == 6


def only_has_what_is_listed(statistics: dict[str, Any]) -> bool:
    """Whether the one domain listed holds all that is installed, and tmem is empty."""
    host, (domain,) = statistics["host"], statistics["domains"]
    return host["tmem_used_pages"] == 0 and host["installed_frames"] == domain["current_frames"]


def test_a_killed_domain_is_off_the_list_within_one_tick_and_what_it_had_is_back(
    start: Callable[..., Host],
) -> None:
    host = start()
    with FeedReader(host.run_dir) as reader:
        reader.subscribe()
        victim = host.busy("victim")
        host.wait(lambda: host.ask("statistics")["host"]["tmem_used_pages"] > 0)
        victim.kill()
        victim.wait()
        last_tick = host.ask("ping")["ticks"]  # of those that may not have seen it die
        ticks: list[Publication] = []
        until = time.monotonic() + WAIT_S
        while not ticks or ticks[-1].tick <= last_tick:
            assert time.monotonic() < until
            ticks += [one for one in reader.read(ANSWER_MS) if isinstance(one, Publication)]
    assert ticks[-1].domains == [], ticks[-1]
    host.wait(lambda: all_is_back(host.ask("statistics")))


#: A domain that attaches, grows, stores and ends, over and over, until somebody kills it.
RESTLESS = """
import sys, frontend
print("up", flush=True)
while True:
    with frontend.attach(sys.argv[1], name=sys.argv[2], maxmem_frames=4 * 512) as dom:
        frames = dom.alloc_many(3 * 512)
        pool = dom.tmem.new_pool(persistent=True)
        for index in range(50):
            dom.tmem.put(pool, (1, 2, 3), index, frames[index])
        dom.free_many(frames)
        dom.release(2 * 512)
"""


def test_a_domain_may_be_killed_at_any_moment(start: Callable[..., Host]) -> None:
    host = start()
    for round_ in range(KILL_ROUNDS):
        victim = host.run(RESTLESS, f"victim{round_}")
        time.sleep(0.0037 * round_)  # somewhere in its cycle of some milliseconds
        victim.kill()
        victim.wait()
        # It may have asked to attach right before its end, and is admitted first.
        host.wait(lambda: all_is_back(host.ask("statistics")))
    assert host.process.poll() is None


def test_a_killed_hypervisor_is_a_clear_error(start: Callable[..., Host]) -> None:
    host = start()
    child = host.busy("vm1")
    dom = frontend.attach(host.run_dir, name="vm2", maxmem_frames=4 * AREA)
    frames = dom.alloc_many(100)
    host.process.kill()
    host.process.wait()
    with pytest.raises(PeerGone):
        dom.request(2 * AREA)
    dom.view(frames[0])[:3] = b"yes"  # what it holds it keeps
    dom.free_many(frames)
    dom.close()
    _, errors = child.communicate(timeout=WAIT_S)
    assert child.returncode == 1
    assert "PeerGone" in errors.splitlines()[-1]


def test_the_end_of_its_parent_ends_it(start: Callable[..., Host]) -> None:
    host = start()
    assert host.process.stdin is not None
    host.process.stdin.close()
    host.process.stdin = None
    assert host.process.wait(WAIT_S) == 0
    assert sorted(path.name for path in host.run_dir.iterdir()) == [
        "events.jsonl",
        "hypervisor.json",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_with_domains_attached(
    start: Callable[..., Host], number: signal.Signals
) -> None:
    host = start()
    dom = frontend.attach(host.run_dir, name="vm1", maxmem_frames=2 * AREA)
    dom.alloc()
    host.process.send_signal(number)
    assert host.process.wait(WAIT_S) == 0
    with pytest.raises(MemcoordError):
        dom.request(AREA)
    dom.close()


def test_names_sizes_and_strangers_are_refused(start: Callable[..., Host]) -> None:
    config = DomainConfig("vm1", maxmem_frames=4 * AREA, boot_frames=AREA, target_frames=2 * AREA)
    host = start(open_attach=False, domains=(config,))
    with frontend.attach(host.run_dir, name="vm1") as dom:
        assert dom.maxmem_frames == 4 * AREA
        assert dom.current_frames == AREA
        for name, code in (("vm1", "name-taken"), ("vm2", "unknown-domain")):
            with pytest.raises(AttachRefused) as refusal:
                frontend.attach(host.run_dir, name=name, maxmem_frames=0)
            assert refusal.value.code == code
    host.wait(lambda: not host.ask("list"))
    with pytest.raises(AttachRefused, match="configured with"):
        frontend.attach(host.run_dir, name="vm1", maxmem_frames=AREA)


def test_targets_are_set_asked_for_and_explained(start: Callable[..., Host]) -> None:
    host = start()
    with frontend.attach(host.run_dir, name="vm1", maxmem_frames=4 * AREA) as dom:
        assert dom.request(3 * AREA) == 3 * AREA
        host.ask("mem-set", domain="vm1", target_frames=AREA)
        host.wait(lambda: dom.current_frames == AREA)
        host.ask("tmem-set", domain="vm1", target_pages=0)
        pool = dom.tmem.new_pool(persistent=True)
        frame = dom.alloc()
        dom.view(frame)[:1] = b"x"
        assert dom.tmem.put(pool, (0, 0, 0), 0, frame) < 0
        for domain, frames in (("vm9", 1), ("vm1", -2)):
            with pytest.raises(Refused):
                host.ask("mem-set", domain=domain, target_frames=frames)
        for pages in (32 * AREA + 1, (1 << 63) - 1):
            with pytest.raises(Refused, match="all host memory"):
                host.ask("tmem-set", domain="vm1", target_pages=pages)
        assert isinstance(host.ask("why", domain="vm1"), list)
        with pytest.raises(Refused, match="vm9"):
            host.ask("why", domain="vm9")
        host.ask("mem-set", domain="vm1", target_frames=-1)
        assert dom.target_frames == 4 * AREA


def test_a_domain_that_takes_more_than_it_was_granted_is_stopped(
    start: Callable[..., Host],
) -> None:
    host = start(on_violation="stop")
    greedy = host.run(GREEDY, "greedy")
    host.wait(lambda: not host.ask("list"))
    assert host.events("violation")[0]["name"] == "greedy"
    assert greedy.wait(WAIT_S) == -signal.SIGSEGV
    host.wait(lambda: all_is_back(host.ask("statistics")))


def test_doorbells_travel_over_zeromq(start: Callable[..., Host]) -> None:
    host = start(spin_ns=0)
    for _ in range(2):  # the second attaches under the name of the first
        with frontend.attach(
            host.run_dir, name="vm1", maxmem_frames=4 * AREA, doorbell="zmq"
        ) as dom:
            assert len(dom.alloc_many(2 * AREA)) == 2 * AREA
            pool = dom.tmem.new_pool(persistent=True)
            frame = dom.alloc()
            for index in range(200):
                assert dom.tmem.put(pool, (1, 2, 3), index, frame) == 1
            assert dom.statistics().sleeps > 100
            assert host.ask("list")[0]["doorbell"] == "zmq"
        host.wait(lambda: not host.ask("list"))


def test_nothing_it_makes_is_open_to_others(start: Callable[..., Host]) -> None:
    host = start()
    host.run_dir.chmod(0o755)  # as somebody might, later
    made = [path for path in host.run_dir.iterdir() if path.name != "hypervisor.json"]
    assert len(made) == 7
    assert [path.name for path in made if path.stat().st_mode & 0o077] == []


def test_two_hypervisors_keep_out_of_each_others_way(start: Callable[..., Host]) -> None:
    hosts = [start(), start()]
    doms = [frontend.attach(h.run_dir, name="vm1", maxmem_frames=2 * AREA) for h in hosts]
    for dom in doms:
        assert len(dom.alloc_many(AREA)) == AREA
        dom.close()


def test_a_broken_policy_is_named_and_memory_flows(
    start: Callable[..., Host], tmp_path: Path
) -> None:
    policy = tmp_path / "broken.py"
    policy.write_text("class Broken:\n    def plan(self, view):\n        raise ZeroDivisionError\n")
    host = start(policy=f"{policy}:Broken")
    with frontend.attach(host.run_dir, name="vm1", maxmem_frames=2 * AREA) as dom:
        host.wait(lambda: len(host.events("policy-fault")) > 0)
        assert len(dom.alloc_many(AREA)) == AREA
    assert "Broken" in host.events("policy-fault")[0]["why"]


STUCK = """
import ctypes
from policies import Plan
class Stuck:
    def plan(self, view):
        if view.tick >= 3:
            ctypes.PyDLL(None).sleep(100_000)  # keeps the GIL, as many a call of C does
        return Plan()
"""


def test_a_policy_that_keeps_the_gil_holds_nobody_up(
    start: Callable[..., Host], tmp_path: Path
) -> None:
    policy = tmp_path / "stuck.py"
    policy.write_text(STUCK)
    host = start(policy=f"{policy}:Stuck", policy_deadline_ms=100)
    with frontend.attach(host.run_dir, name="vm1", maxmem_frames=2 * AREA) as dom:
        host.wait(lambda: len(host.events("policy-fault")) > 0)
        ticks = host.ask("ping")["ticks"]
        host.wait(lambda: host.ask("ping")["ticks"] > ticks + 5)
        assert len(dom.alloc_many(AREA)) == AREA
    assert "stalled" in host.events("policy-fault")[0]["why"]


def test_what_a_guest_does_not_report_is_unknown(start: Callable[..., Host]) -> None:
    host = start()
    names = [f"guest_{name}" for name in ("used_frames", "swap_ins", "stall_ns", "references")]
    with frontend.attach(host.run_dir, name="vm1", maxmem_frames=2 * AREA) as dom:
        (now,) = host.ask("statistics")["domains"]
        assert [now[name] for name in names] == [-1, -1, -1, -1]
        dom.report(swap_ins=0)
        (now,) = host.ask("statistics")["domains"]
        assert [now[name] for name in names] == [-1, 0, -1, -1]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{", "hypervisor.json"),
        ('{"total_frames": ' + "9" * 5000 + "}", "hypervisor.json"),
        ('{"domains": ' + "[" * 5000, "hypervisor.json"),
        ('{"total_frames": 8192, "colour": 1}', "colour"),
        ('{"total_frames": "many"}', "total_frames"),
        ('{"total_frames": 512, "slack_frames": 1024}', "total_frames"),
        ('{"total_frames": 8192, "policy": "magic"}', "magic"),
        ('{"total_frames": 8192, "tmem_record": "x", "tmem_dedup": true}', "tmem_record"),
        (
            '{"total_frames": 8192, "domains": [{"name": "vm1", "maxmem_frames": 512, '
            '"boot_frames": 512, "target_frames": 512, "options": {"colour": 1}}]}',
            "domains[0].options.colour",
        ),
    ],
)
def test_a_wrong_configuration_is_one_line_and_status_2(
    tmp_path: Path, text: str, names: str
) -> None:
    (tmp_path / "hypervisor.json").write_text(text)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "memcoord.testbed.live.hypervisor_main", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert names in done.stderr
