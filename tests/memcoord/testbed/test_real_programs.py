"""Goal: a scenario runs real programs, and counts their work. Method: small ones, and one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.testbed.guests.work import ANSWER_S, Lines, Polled, Reported, counted
from memcoord.testbed.live.barrier import done_at
from memcoord.testbed.live.verdicts import RunningDomain
from memcoord.testbed.runs import userfaults
from memcoord.testbed.scenarios import schema
from memcoord.testbed.scenarios.scale import scaled
from memcoord.testbed.scenarios.workloads import title_of
from memcoord.testbed.streams import lengths_of

RUN_S = 100

REPORTS = """
import os
pages, fd = [bytes([i % 251]) * 4096 for i in range(6000)], int(os.environ["MEMCOORD_WORK"])
for turn in range(10):
    assert all(page[7] == i % 251 for i, page in enumerate(pages))
    os.write(fd, b"1\\n")
print("walked", os.environ["WHO"], len(os.listdir(".")))
"""

#: A pool of forked processes too, in a domain that is short: who may not be told of forks is.
IN_A_SANDBOX = """
cat "$MINE/given.txt" 2> /dev/null || echo reads nothing
echo x 2> /dev/null > "$MINE/made.txt" || echo writes nothing
"$MEMCOORD_PYTHON" -c '
import os
pages = [bytes([i % 251]) * 4096 for i in range(5000)]
child = os.fork()
right = all(page[7] == i % 251 for i, page in enumerate(pages))
if child == 0:
    os._exit(100 if right else 1)
print(os.waitstatus_to_exitcode(os.wait()[1]), right)
'
"""


def domain(name: str, **workload: Any) -> dict[str, Any]:
    work = {"kind": "program", "argv": ["python3", "-c", "1"], **workload}
    sizes = {"maxmem": "32 MiB", "ram": "12 MiB"}
    return {"name": name, **sizes, "mechanism": "balloon", "workload": work}


def raw(*domains: dict[str, Any]) -> dict[str, Any]:
    return {"name": "some", "memory": "128 MiB", "interval_ms": 50, "domain": list(domains)}


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("domain[0].workload.argv", {"argv": []}),
        ("domain[0].workload.argv[0]", {"argv": ["no-such-program-here"]}),
        ("domain[0].workload.argv[0]", {"argv": [__file__]}),  # not executable
        ("domain[0].workload.env", {"env": {"A=B": "1"}}),
        ("domain[0].workload.env", {"env": {"MEMCOORD_DOMAIN": "/tmp/x"}}),
        ("domain[0].workload.cwd", {"cwd": "/no/such/folder"}),
        ("domain[0].workload.files[1]", {"files": [__file__, "/no/such/file"]}),
        ("domain[0].workload.total", {"total": 5}),
        ("domain[0].workload.count", {"count": "lines"}),
        ("domain[0].workload.count", {"count": "often", "work": "ops"}),
        ("domain[0].workload.poll", {"count": "polled", "work": "ops"}),
        ("domain[0].workload.poll", {"poll": ["true"], "work": "ops"}),
        (
            "domain[0].workload.poll[0]",
            {"poll": ["nothing-at-all"], "count": "polled", "work": "x"},
        ),
        ("domain[0].workload.limit_s", {"limit_s": 0}),
        ("domain[0].workload.resident", {"resident": "1 MiB"}),
    ],
)
def test_a_mistake_is_named_by_its_key(key: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        schema.parse(raw(domain("vm1", **change)))
    assert caught.value.key == key


def test_a_program_wants_a_mechanism_that_moves_single_pages() -> None:
    with pytest.raises(ConfigError, match=r"domain\[0\]\.mechanism: a program needs balloon"):
        schema.parse(raw({**domain("vm1"), "mechanism": "direct"}))


def test_a_share_of_work_needs_to_know_the_whole() -> None:
    waits = {**domain("vm2"), "start_when": {"domain": "vm1", "done": 0.5}}
    with pytest.raises(ConfigError, match=r"domain\[1\]\.start_when\.done: .*workload.total"):
        schema.parse(raw(domain("vm1"), waits))
    with pytest.raises(ConfigError, match=r"domain\[0\]\.crash_at: needs workload.total"):
        schema.parse(raw({**domain("vm1"), "crash_at": 0.5}))
    schema.parse(raw(domain("vm1", work="ops", total=10), waits))
    waits["start_when"] = {"domain": "vm1", "done": 1}
    schema.parse(raw(domain("vm1"), waits))


def test_a_program_has_no_references_and_is_not_simulated() -> None:
    found = schema.parse(raw(domain("vm1", work="ops", total=10), domain("vm2")))
    assert lengths_of(found) == {"vm1": 10, "vm2": 0}
    assert title_of(found.domain[0].workload) == "python3"
    assert scaled(found, 2) == found
    with pytest.raises(ConfigError, match=r"domain\[0\]\.workload\.kind: .*memcoord run"):
        schema.check_simulable(found)


def test_one_that_does_not_say_how_much_it_does_is_undone_until_it_ends() -> None:
    found = schema.parse(raw(domain("vm1", work="ops"))).domain[0]
    running = RunningDomain(found, 1, 0)
    running.begin_s = 1.0
    running.note({"guest_references": 70}, 2.0)
    assert running.done == done_at(running, 2.5) == 0
    running.result, running.end_s = running.last_seen("done", ""), 3.0
    assert (running.done, running.result.references) == (1, 70)
    assert (done_at(running, 2.5), done_at(running, 3.0)) == (0, 1)


def test_reported_units_are_added() -> None:
    counter = Reported()
    try:
        assert counter.units() == 0
        os.write(counter.fd, b"3\n\nhello\n-5\n1")
        assert counter.units() == 3 + 1 + 1
        os.write(counter.fd, b"7\n")
        assert counter.units() == 5 + 17
    finally:
        counter.close()


def test_lines_of_output_are_counted_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"one\ntwo")
    counter = Lines(path)
    try:
        assert counter.units() == 1
        with path.open("ab") as file:
            file.write(b"\nthree\n")
        assert counter.units() == 3
    finally:
        counter.close()


def until_ended(counter: Polled) -> None:
    assert counter._process is not None
    counter._process.wait(20)


def test_a_command_is_polled_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "n").write_text("done so far: 12\n")
    now = [0.0]
    counter = Polled(["cat", "n"], dict(os.environ), str(tmp_path), lambda: now[0])
    assert counter.units() == 0
    until_ended(counter)
    assert counter.units() == 12
    (tmp_path / "n").unlink()  # from now on it fails
    now[0] += 1
    counter.units()
    until_ended(counter)
    assert counter.units() == 12
    counter.close()


def test_a_poll_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    now = [0.0]
    counter = Polled(["sleep", "100"], dict(os.environ), str(tmp_path), lambda: now[0])
    counter.units()
    process = counter._process
    assert process is not None
    now[0] = ANSWER_S + 1
    assert counter.units() == 0
    assert process.returncode is not None


def test_a_program_without_a_unit_is_not_counted(tmp_path: Path) -> None:
    work = schema.parse(raw(domain("vm1"))).domain[0].workload
    with counted(work, tmp_path / "out", {}, "") as counter:  # type: ignore[arg-type]
        assert counter.units() is None


@pytest.mark.process
def test_a_run_of_five_programs(tmp_path: Path) -> None:
    """One is short and reports, one waits for it; others fail, are confined, take too long."""
    if obstacle := userfaults.probe().obstacle():
        pytest.skip(obstacle)
    given = tmp_path / "given.txt"
    given.write_text("given")
    lines = {"work": "lines", "total": 3, "count": "lines"}
    scenario = raw(
        domain(
            "vm1",
            argv=["python3", "-c", REPORTS],
            env={"WHO": "vm1"},
            files=[str(given)],
            work="walks",
            total=10,
        ),
        {
            **domain("vm2", argv=["sh", "-c", "echo a; echo b; cat given.txt; echo"], **lines),
            "start_when": {"domain": "vm1", "done": 0.5},
        },
        domain("vm3", argv=["sh", "-c", "echo why >&2; exit 3"]),
        domain("vm4", argv=["sh", "-c", IN_A_SANDBOX], env={"MINE": str(tmp_path)}, sandbox=True),
        domain("vm5", argv=["sleep", "50"], limit_s=0.5),
    )
    scenario["domain"][1]["workload"]["files"] = [str(given)]
    file = tmp_path / "some.toml"
    file.write_bytes(msgspec.toml.encode(scenario))
    command = [sys.executable, "-m", "memcoord", "run", str(file), "--json", "--no-alone"]
    command += ["--policy", "greedy", "--run-dir", str(tmp_path / "r")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 1, done.stderr
    (policy,) = json.loads(done.stdout)["policies"]
    vm1, vm2, vm3, vm4, vm5 = policy["domains"]
    assert (vm1["state"], vm2["state"]) == ("done", "done"), done.stdout
    assert (vm1["references"], vm2["references"]) == (10, 3)
    assert vm1["faults"] > 0
    assert vm1["tmem_hits"] + vm1["swap_ins"] > 0
    assert vm4["state"] == "done", vm4["reason"]
    assert (vm5["state"], "longer than it may" in vm5["reason"]) == ("failed", True)
    assert (vm3["state"], vm3["reason"].rpartition(": ")[2]) == ("failed", "why")
    kept = tmp_path / "r" / "1-greedy"
    assert (kept / "vm1" / "stdout.txt").read_text() == "walked vm1 1\n"
    assert (kept / "vm2" / "stdout.txt").read_text() == "a\nb\ngiven\n"
    said = (kept / "vm4" / "stdout.txt").read_text().split()
    assert said == ["reads", "nothing", "writes", "nothing", "100", "True"]
    assert json.loads((kept / "vm4" / "outcome.json").read_text())["figures"]["forks"] >= 1
    assert json.loads((kept / "vm1" / "outcome.json").read_text())["figures"]["faults"] > 0
    assert not (kept / "vm1" / "work").exists()
