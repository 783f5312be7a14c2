"""Goal: ls tells live, ended and dead runs apart and asks the hypervisor for its domains."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from hypervisor.coordination.decisions import Decision
from hypervisor.public import messages
from hypervisor.public.errors import ConfigError, PeerGone
from hypervisor.public.feed import DecisionRow, Why
from memcoord.commands.runs import SHOWN, list_runs, run_lines
from memcoord.commands.why import decision_lines, why_command
from memcoord.testbed.runs import control_client, rundir
from memcoord.testbed.watch import kept

POLL_MS = 20
JOIN_S = 30
Answer = Callable[[messages.Request], list[bytes]]


@contextmanager
def hypervisor(run_dir: Path, answer: Answer) -> Iterator[list[messages.Request]]:
    """A control endpoint that answers one request with what ``answer`` returns."""
    seen: list[messages.Request] = []
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        over = threading.Event()
        router.bind(f"ipc://{run_dir / messages.CONTROL_SOCKET}")

        def serve() -> None:
            while not router.poll(POLL_MS):
                if over.is_set():
                    return  # the client gave up before its request arrived
            peer, data = router.recv_multipart()
            request = messages.decode(data)
            assert isinstance(request, messages.Request)
            seen.append(request)
            for reply in answer(request):
                router.send_multipart([peer, reply])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            thread.join(JOIN_S)


def reply(request: messages.Request, result: Any = None, error: str = "") -> bytes:
    return messages.encode(messages.Reply(messages.VERSION, request.request_id, error, result))


def test_a_live_run_lists_its_domains(short_path: Path) -> None:
    run = rundir.create("main", base=short_path)
    domain = dict.fromkeys(SHOWN, 512) | {"name": "vm1", "tmem_target_pages": -1}
    answer = {"domains": [domain | {"puts": 3}], "host": {}}
    with hypervisor(run.path, lambda request: [reply(request, answer)]) as seen:
        found = list_runs(short_path)
    run.finish("finished")
    assert seen[0].op == "statistics"
    assert (found[0]["state"], found[0]["domains"]) == ("live", [domain])
    assert run_lines(found)[1].split()[0] == "vm1"
    assert run_lines(found)[1].endswith("no limit")


def test_decisions_are_told_one_by_one() -> None:
    made = Decision(3, 0, "vm1", "tmem", -1, 300, rule="demand rose")
    assert decision_lines("vm1", [made], each=True) == [str(made)]
    (line,) = decision_lines("vm1", [made])
    assert line == "tick 3: tmem no limit -> 1.17 MiB (less); demand rose"
    assert decision_lines("vm1", []) == ["vm1: no target of it was ever changed"]


def test_ended_dead_and_broken_runs_are_told_apart(short_path: Path) -> None:
    run = rundir.create("main", base=short_path)
    gone = msgspec.structs.replace(run.manifest.processes[0], start_ticks=1)
    run.manifest.processes[0] = gone
    run.finish("finished")
    for name, state in (("2-dead", "running"), ("1-failed", "failed")):
        other = msgspec.structs.replace(run.manifest, state=state)
        (short_path / name).mkdir()
        (short_path / name / rundir.MANIFEST).write_bytes(msgspec.json.encode(other))
    (short_path / "0-broken").mkdir()
    (short_path / "0-broken" / rundir.MANIFEST).write_text("{")
    states = {row["run"]: row["state"] for row in list_runs(short_path)}
    assert states == {
        run.path.name: "finished",
        "2-dead": "dead",
        "1-failed": "failed",
        "0-broken": "unreadable",
    }
    lines = run_lines(list_runs(short_path))
    assert sum(not line.startswith(" ") for line in lines) == 4


def test_a_live_run_says_its_policy_how_far_it_is_and_fits_80_columns(short_path: Path) -> None:
    run = rundir.create("main", base=short_path)
    (run.path / "hypervisor.json").write_text('{"policy": "smart-alloc:P=2"}')
    run.event("greedy", "step", number=1, total=6, lengths={"vm1": 1})
    run.event("smart-alloc:P=2", "step", number=2, total=6, lengths={"vm1": 400, "vm2": 600})
    big = dict.fromkeys(SHOWN, 1 << 40) | {
        "name": "a_name_of_two_and_thirty_letters",
        "reach": "no",
    }
    rows = [big, *(big | {"name": name, "guest_references": 200} for name in ("vm2", "vm1"))]
    with hypervisor(run.path, lambda request: [reply(request, {"domains": rows, "host": {}})]):
        found = list_runs(short_path)
    run.finish("finished")
    assert [row["name"] for row in found[0]["domains"]] == [big["name"], "vm1", "vm2"]
    lines = run_lines(found)
    assert lines[1].split("; ") == [
        "  policy smart-alloc:P=2",
        "run 2 of 6, 40 % of its references",
    ]
    assert max(map(len, lines)) <= 80
    assert "MiB" in lines[2]


def test_an_ended_run_says_what_came_of_it(short_path: Path) -> None:
    run = rundir.create("main", base=short_path)
    against = {"value": 0.25, "low": None, "high": None, "n": 1, "verdict": "no difference shown"}
    policies = [
        {"policy": "greedy", "against_baseline": {}},
        {"policy": "fallow", "against_baseline": {"disk_reads": against}},
        {"policy": "same", "against_baseline": {"disk_reads": against | {"value": 0.97}}},
        {"policy": "unsure", "against_baseline": {"disk_reads": against | {"n": 3}}},
        {"policy": "bad", "error": "it broke"},
    ]
    run.write("report.json", msgspec.json.encode({"policies": policies}))
    run.finish("finished")
    (row,) = [row for row in list_runs(short_path) if row["run"] == run.path.name]
    assert row["verdict"] == (
        "disk reads against greedy: fallow x0.25, same no difference, unsure no difference, "
        "bad broke"
    )
    (run.path / "report.json").write_text("{")
    assert max(map(len, run_lines([row]))) <= 80
    assert list_runs(short_path)[0]["verdict"] == ""


def test_a_run_in_a_directory_of_its_own_is_found_until_it_is_gone(
    short_path: Path, tmp_path: Path
) -> None:
    base = short_path / "runs"
    here = rundir.create("main", base=base)
    there = rundir.create("main", base=base, path=short_path / "mine")
    assert {Path(row["path"]) for row in list_runs(base)} == {here.path, there.path}
    assert rundir.find("mine", base) == rundir.find(str(there.path)) == there.path
    assert rundir.find(here.path.name, base) == here.path
    for run in (here, there):
        run.finish("finished")
    shutil.rmtree(there.path)
    assert [Path(row["path"]) for row in list_runs(base)] == [here.path]
    with pytest.raises(ConfigError, match="no run is called so"):
        rundir.find("mine", base)
    rundir.create("main", base=base, path=tmp_path / "other").finish("finished")
    links = list((base.parent / rundir.ELSEWHERE).iterdir())
    assert [link.readlink() for link in links] == [tmp_path / "other"]


def test_why_of_a_run_that_ended_reads_what_it_kept(short_path: Path) -> None:
    with kept.Kept(short_path) as files:
        for tick in range(400):
            row = DecisionRow("vm1", "tmem", tick, tick + 1, tick + 1, "grow", "")
            files.decided("smart-alloc", 0, 0.0, Why(2, tick * 10**8, tick, [row]))
        files.decided("fallow", 1, 0.0, Why(2, 10**9, 7, [row]))
    told, lines = why_command("vm1", str(short_path))
    assert (told["domain"], len(told["why"])) == ("vm1", 401)
    assert lines[0] == "vm1 under smart-alloc"
    assert lines[-2] == "vm1 under fallow, round 2"
    assert 15 <= len(lines) <= 30
    assert sum(int(line.rpartition("grow x")[2]) for line in lines[1:-2]) == 400
    _, each = why_command("vm1", str(short_path), each=True)
    assert len(each) == 403
    assert why_command("vm9", str(short_path))[1] == ["vm9: no target of it was ever changed"]
    with pytest.raises(PeerGone):
        why_command("vm1", str(short_path / "empty"))


def test_no_runs_is_an_answer(short_path: Path) -> None:
    assert list_runs(short_path / "absent") == []
    assert run_lines([]) == ["no runs"]


def test_a_live_run_without_a_hypervisor_is_a_problem_not_a_failure(short_path: Path) -> None:
    run = rundir.create("main", base=short_path)
    row = list_runs(short_path)[0]
    run.finish("finished")
    assert row["state"] == "live"
    assert "no hypervisor" in row["problem"]


def test_an_error_reply_is_the_hypervisors_own_words(short_path: Path) -> None:
    with (
        hypervisor(short_path, lambda request: [reply(request, error="no domain 'vm9'")]),
        pytest.raises(control_client.Refused, match="no domain 'vm9'"),
    ):
        control_client.call(short_path, "why", domain="vm9")


def test_replies_to_others_are_skipped(short_path: Path) -> None:
    def answer(request: messages.Request) -> list[bytes]:
        other = messages.Request(messages.VERSION, request.request_id ^ 1, "ping", {})
        return [reply(other, "wrong"), reply(request, "right")]

    with hypervisor(short_path, answer):
        assert control_client.call(short_path, "ping") == "right"


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"x" * 100])
def test_garbage_is_a_peer_that_cannot_be_used(short_path: Path, garbage: bytes) -> None:
    with hypervisor(short_path, lambda _: [garbage]), pytest.raises(PeerGone, match="read"):
        control_client.call(short_path, "ping")


def test_a_silent_hypervisor_is_given_up(short_path: Path) -> None:
    with hypervisor(short_path, lambda _: []), pytest.raises(PeerGone, match="does not answer"):
        control_client.call(short_path, "ping", timeout_ms=50)


def test_a_wrong_request_is_never_sent(short_path: Path) -> None:
    (short_path / messages.CONTROL_SOCKET).touch()
    with pytest.raises(control_client.Refused, match="target_frames"):
        control_client.call(short_path, "mem-set", domain="vm1", target_frames="many")
    with pytest.raises(ConfigError):
        control_client.call(short_path / ("x" * 120), "ping")
