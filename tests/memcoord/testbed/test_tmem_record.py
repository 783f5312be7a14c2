"""Goal: what a run recorded, replayed, answers what the run was answered.

Method: the recorder between the calls of a service and a pool in this process, and a short run of
real processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import service_calls
from service_calls import DESTROY_POOL, FLUSH_OBJECT, FLUSH_PAGE, GET, NEED_SLAB, NEW_POOL, PUT
from tmem_model import page_of

from hypervisor.public.errors import ConfigError, MemcoordError
from memcoord import control
from memcoord.commands.run import RunOptions, run_command
from memcoord.testbed.live.row_buffer import RowBuffer
from memcoord.testbed.live.tmem_record import Recorder
from tmem import Code, Tmem
from tmem.layout import AREA_PAGES
from tmem.replay import lines_of, replay
from tmem.serve import AGAIN

GUEST_ROWS = ("new_pool", "destroy_pool", "put", "get", "flush_page", "flush_object")
LIMIT_S = 100.0
SCENARIO = """
name = "recorded"
memory = "8 MiB"
slack = "2 MiB"
tmem = "2 MiB"
interval_ms = 20

[[domain]]
name = "vm1"
maxmem = "4 MiB"
ram = "2 MiB"
workload = { kind = "page-trace", trace = "sqlite", resident = "200 pages", repeat = 1 }
"""


def replayed(path: Path) -> list[tuple[Any, Any]]:
    """Every row of a stream, the configuration left out, with its answer."""
    answers: list[Any] = []
    done = replay(lines_of(io.BytesIO(path.read_bytes())), answers.append)
    assert done is not None
    done.pool.validate()
    rows = [json.loads(line) for line in path.read_text().splitlines()][1:]
    return list(zip(rows, answers, strict=True))


class Recorded:
    """A pool that grows and shrinks behind a recorder, and what it answered."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, areas: int = 2) -> None:
        self.pool = Tmem(max_areas=areas, reserve_pages=0, seed=1)
        self.recorder = Recorder(path, areas * AREA_PAGES)
        monkeypatch.setattr(service_calls, "entries_of", self.recorder.entries)
        self.service = service_calls.ServiceCalls(self.pool)
        self.areas, self.codes = areas, list[int]()

    def record(self, op: int, client: int, *args: int, seed: int = 1) -> int:
        """Execute a record as the service does: on NEED_SLAB grow, or evict."""
        page = page_of(seed) if op in (PUT, GET) else None
        code = self.service.record(op, client, args, page, may_ask=1)
        if code == NEED_SLAB:
            next((a for a in range(self.areas) if self.service.grow(a) == 0), None)
            code = self.service.record(op, client, args, page, may_ask=0)
        if code != Code.TARGET:
            self.codes.append(code)
        return code


def test_a_stream_replays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r, path = random.Random(7), tmp_path / "stream"
    live = Recorded(path, monkeypatch)
    for client in (0, 5):
        assert live.service.open_client(client) == 0
        for kind in (0, 1):
            live.record(NEW_POOL, client, 1 << 24 | kind)
    for number in range(6000):
        handle = r.randrange(3) | r.randrange(700) << 32, r.randrange(3), 0, 0
        op = r.choice((PUT, PUT, PUT, GET, FLUSH_PAGE))
        live.record(op, r.choice((0, 5)), *handle, seed=number)
        if r.random() < 0.002:
            live.record(FLUSH_OBJECT, 0, 1, handle[1])
            live.service.shrink()
        if r.random() < 0.002:
            live.pool.clients["mm_target"][0] = r.choice((-1, 100))
    live.record(DESTROY_POOL, 0, 0)
    live.service.close_client(5)
    live.pool.validate()
    live.recorder.close()
    told = replayed(path)
    assert [answer[0] for row, answer in told if row[0] in GUEST_ROWS] == [
        0,
        *live.codes[:2],
        0,
        *live.codes[2:],
    ]
    assert told[-1][0][0] == "host_take"
    assert told[-1][1] == told[-1][0][2:]


def test_the_host_operations_are_recorded_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stream"
    live = Recorded(path, monkeypatch)
    live.service.open_client(3)
    live.pool.freeze()
    live.pool.thaw(3)
    live.pool.set_weight(3, 9)
    live.pool.set_quota(3, 8)
    live.pool.authorise(3, (1, 2))
    live.recorder.close()
    live.recorder.close()
    rows = [row for row, _ in replayed(path)]
    assert rows == [
        ["host_take", 0, 1024],
        ["destroy_pool", 3, 0],
        ["freeze", 65535],
        ["thaw", 3],
        ["set_weight", 3, 9],
        ["set_quota", 3, 8],
        ["auth", 3, 1, 1, 2],
        ["kill_client", 3],
    ]


def test_two_pools_after_each_other_make_one_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stream"
    for _ in range(2):
        live = Recorded(path, monkeypatch)
        live.service.open_client(0)
        live.record(NEW_POOL, 0, 1 << 24)
        assert live.record(PUT, 0, 0, 0, 0, 0) == 1
        live.recorder.close()
    lines = path.read_text().splitlines()
    assert sum(line.startswith("{") for line in lines) == 1
    assert [a for row, a in replayed(path) if row[0] in ("new_pool", "put")] == [[0], [1]] * 2


def test_what_no_row_can_say_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stream"
    live = Recorded(path, monkeypatch)
    live.service.open_client(0)
    before = path.read_text()
    for op, word in ((0, 0), (99, 0), (NEW_POOL, 2**63), (FLUSH_OBJECT, 1 << 32)):
        assert live.service.record(op, 0, (word,)) < 0
    live.recorder.close()
    rows = [row[0] for row, _ in replayed(path)]
    assert rows == ["host_take", "destroy_pool", "kill_client"]
    assert before == "", "the stream is written in large parts"


@pytest.mark.parametrize(
    ("file", "extra", "wrong"),
    [("stream", "tmem_dedup=true", "dedup"), ("no/stream", "seed=1", "No such file")],
)
def test_what_cannot_be_recorded_is_said_before_anything_starts(
    tmp_path: Path, file: str, extra: str, wrong: str
) -> None:
    (tmp_path / "recorded.toml").write_text(SCENARIO)
    options = RunOptions(
        run_dir=str(tmp_path / "run"), overrides=[extra], record=str(tmp_path / file)
    )
    with pytest.raises(ConfigError, match=wrong):
        run_command(str(tmp_path / "recorded.toml"), options)
    assert not (tmp_path / "run").exists()


def test_two_runs_do_not_record_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "recorded.toml").write_text(SCENARIO)
    stream, where = tmp_path / "stream", tmp_path / "run"
    with stream.open("ab") as file:
        file.write(b"rows")
        fcntl.flock(file, fcntl.LOCK_EX)
        options = RunOptions(run_dir=str(where), record=str(stream))
        with pytest.raises(ConfigError, match="another run records in it"):
            run_command(str(tmp_path / "recorded.toml"), options)
    assert stream.read_bytes() == b"rows"
    assert not where.exists()


def test_rows_of_a_killed_process_are_there_once(tmp_path: Path) -> None:
    path, rows = tmp_path / "rows", [f"{number}\n".encode() * 200 for number in range(3000)]
    first = RowBuffer(path, 2)
    assert first.is_empty
    for begin in range(0, len(rows), 900):
        pid = os.fork()
        if not pid:  # ends without a word, as if killed
            buffer = RowBuffer(path, 2, os.dup(first.fd))
            for number, row in enumerate(rows[begin : begin + 900], begin):
                buffer.append(row, {1: number})
            with path.open("ab") as file:
                file.write(b"a part that does not count")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert first.words.tolist() == [0, min(begin + 900, len(rows)) - 1]
    RowBuffer(path, 2, os.dup(first.fd)).close()
    first.close()
    assert path.read_bytes() == b"".join(rows)


def test_an_operation_that_is_executed_again_has_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, page = tmp_path / "stream", page_of(3)
    live = Recorded(path, monkeypatch)
    live.service.open_client(0)
    live.record(NEW_POOL, 0, 1 << 24 | 1)
    live.record(PUT, 0, 0, 0, 0, 0)
    for how, seq in ((0, 9), (AGAIN, 9), (AGAIN, 10)):  # of the last one nobody has a row yet
        assert live.service.record(PUT, 0, (0, 0, 0, 0), page, how, seq) == 1
    live.recorder.close()
    assert [row[0] for row, _ in replayed(path)].count("put") == 3


@pytest.mark.process
def test_a_run_whose_hypervisor_is_killed_can_be_replayed(tmp_path: Path) -> None:
    """Every operation is there once: what a guest got back, a replay gets back."""
    scenario, stream, where = (tmp_path / name for name in ("recorded.toml", "stream", "run"))
    scenario.write_text(SCENARIO.replace("repeat = 1", "repeat = 4"))
    command = [
        *(sys.executable, "-m", "memcoord", "run", str(scenario), "--json", "--policy", "greedy"),
        "--no-alone",
        *("--run-dir", str(where), "--record", str(stream)),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as run:
        for kill in range(2):
            os.kill(_serving(run, where / "1-greedy", restarts=kill), signal.SIGKILL)
        out, _ = run.communicate(timeout=LIMIT_S)
    (policy,) = json.loads(out)["policies"]
    assert policy["error"] == ""
    told = replayed(stream)
    assert not [answer for _, answer in told if answer[0] == "error"]
    hits = [answer for row, answer in told if row[0] == "get" and answer[0] == 1]
    assert len(hits) == policy["domains"][0]["tmem_hits"] > 0


def _serving(run: subprocess.Popen[bytes], where: Path, restarts: int) -> int:
    """The process id of the hypervisor that has so many before it, once its domain uses tmem."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        with contextlib.suppress(MemcoordError):
            now, pid = control(where, "statistics"), int(control(where, "ping")["pid"])
            used = [domain["puts"] > 200 for domain in now["domains"]]
            if now["control"]["restarts"] == restarts and any(used):
                return pid
        assert run.poll() is None, "the run is over"
        time.sleep(0.02)
    raise AssertionError("no domain used tmem")


@pytest.mark.process
def test_a_run_of_real_domains_can_be_replayed(tmp_path: Path) -> None:
    (tmp_path / "recorded.toml").write_text(SCENARIO)
    stream = tmp_path / "stream"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "memcoord", "run", str(tmp_path / "recorded.toml"), "--json"),
            *("--policy", "greedy", "--policy", "static-alloc"),
            *("--run-dir", str(tmp_path / "run"), "--record", str(stream)),
        ],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        timeout=LIMIT_S,
        check=True,
    )
    domains = [policy["domains"][0] for policy in json.loads(done.stdout)["policies"]]
    told = replayed(stream)
    assert not [answer for _, answer in told if answer[0] == "error"]
    hits = [answer for row, answer in told if row[0] == "get" and answer[0] == 1]
    assert len(hits) == sum(domain["tmem_hits"] for domain in domains) > 0
