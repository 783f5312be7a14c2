"""Each bench, run once against real processes: its shape and its cleanness, never its times."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench_results import assert_left_clean, result_of

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks import cpus
from memcoord.benchmarks.grant import bench as grant
from memcoord.benchmarks.grant import rivals
from memcoord.benchmarks.grant import views as grant_views
from memcoord.benchmarks.grant.malloc_guest import ALLOCATORS, Allocator
from memcoord.benchmarks.harness import Sheet
from memcoord.benchmarks.lab import Lab
from memcoord.benchmarks.ring import bench as ring
from memcoord.commands.bench import bench
from memcoord.testbed.runs import rundir
from memcoord.testbed.runs.remote import RemoteError, RemoteGone

QUANTILES = ["min", "p50", "p90", "p99", "p999", "max"]
GRANT_ROWS = {
    "grant_local_4k 1 threads 1 live", "grant_local_4k 4 threads 4096 live",
    "malloc glibc_4k 1 threads 1 live", "grant_local_4k single", "grant_local_2m 4k",
    "malloc_fresh_4k glibc", "malloc_fresh_2m glibc", "malloc_fresh_2m glibc thp",
    "malloc_prefaulted_4k glibc", "malloc_fresh_cpu_4k", "grant_cpu_4k", "grant_batch64_4k",
    "malloc_256k glibc", "grant_credit_4k", "grant_credit_4k single", "transfer_4k", "host_2m 4k",
    "transfer_2m 4k back to back", "transfer_2m 4k 10 ms apart", "clock", "kernel_punch_2m",
    "transfer_2m 4k back to back donor uses 50%", "python_grant_4k", "python_free_list_4k",
    "import_frontend", "import_zmq_msgpack",
}  # fmt: skip
GOALS = {
    "transfer_2m_back_to_back/malloc_fresh_2m 4k", "grant_credit_4k/malloc_prefaulted_4k",
    "grant_local_4k/malloc_best_4k", "grant_cpu_4k/malloc_fresh_cpu_4k",
}  # fmt: skip
FAULTS_PER_PAGE_MIN = 0.9 / 512
RING_ROWS = {
    "rtt_spin", "rtt_sleep_eventfd", "rtt_sleep_zmq", "eventfd_rtt", "unix_socket_rtt",
    "zmq_req_rep_rtt", "record_batch32",
}  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few samples as a row can have."""
    for name in ("WARM", "SINGLE", "PYTHON", "FRESH", "KERNEL", "AREA", "HURRIED", "SLOW",
                 "IMPORT"):  # fmt: skip
        monkeypatch.setattr(grant, f"{name}_SAMPLES", 2)
    monkeypatch.setattr(grant, "CREDIT_SAMPLES", 8)  # its use is told at every fourth
    for name in ("SPIN", "SLEEP", "ZMQ", "BATCH"):
        monkeypatch.setattr(ring, f"{name}_SAMPLES", 5)


@pytest.mark.usefixtures("small")
def test_grant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "g"
    result = result_of("grant", out, capsys)
    rows = result["rows"]
    assert set(rows) >= GRANT_ROWS
    assert set(result["targets"]) == set(grant.PLAN.targets)
    assert set(result["ratios"]) >= GOALS
    # Fresh means fresh: the kernel had to give each page touched, alone or in a huge one.
    assert rows["malloc_fresh_4k glibc"]["page_faults_per_page"] > FAULTS_PER_PAGE_MIN
    assert rows["malloc_fresh_2m glibc"]["page_faults_per_page"] > FAULTS_PER_PAGE_MIN
    assert rows["malloc_prefaulted_4k glibc"]["page_faults_per_page"] == 0
    assert {"credit_ran_dry", "samples_not_fresh"} <= set(rows["grant_credit_4k"])
    assert rows["host_2m 4k"]["path_ring"] == 2
    moved = rows["transfer_2m 4k back to back"]  # the bench has looked that the donor lost it
    assert moved.get("path_ring", 0) + moved.get("path_transfer", 0) == 2
    refused = rows["transfer_2m 4k back to back donor uses 100% refused"]
    assert (refused["refused"], refused["count"]) == (1, 1)
    same = ("grant_credit_4k", "malloc_prefaulted_4k glibc"), ("clock", "grant_local_4k single")
    for ours, theirs in same:
        assert rows[ours]["ops_per_sample"] == rows[theirs]["ops_per_sample"]
    assert len(result["machine"]["load_by_round_1m"]) == 1
    assert_left_clean(out)
    overview = next(grant_views.tables(result))
    assert list(overview.head[1:4]) == ["inside the domain", "from the host", "from another domain"]
    assert [line[0][:5] for line in overview.lines] == ["4 KiB", "2 MiB", "2 MiB"]
    assert all("[" in cell for cell in overview.lines[1][1:])


def test_a_quantile_that_the_samples_cannot_carry_is_not_shown() -> None:
    row = {"median": 10.0, "p50_low": 9.0, "p50_high": 12.0, "p99": None, "count": 4, "mean": 11.0}
    result = {"rows": {"transfer_2m 4k back to back": row}}
    lines = {line[0]: line for table in grant_views.tables(result) for line in table.lines}
    assert lines["back to back"][1:4] == ["10 ns [9 ns .. 12 ns]", "-", "11 ns"]


def test_an_allocator_that_is_not_installed_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Allocator("nowhere", ("no-such-library",))
    monkeypatch.setattr(rivals, "ALLOCATORS", (ALLOCATORS[0], nowhere))
    run = rundir.create("lab", path=tmp_path / "l")
    sheet = Sheet(grant.PLAN)
    with Lab(run) as lab:
        (glibc,) = rivals.start_rivals(lab, sheet)
        shape = {"count": 3, "ops": 2, "live": 4, "size": 4096}
        assert len(glibc.of(2).ask("recycled", threads=2, **shape)) == 2 * 3 * 8
        with pytest.raises(RemoteError, match=r"EINDEX|index|range"):
            glibc.ask("recycled", threads=99, **shape)
    run.finish("finished")
    assert sheet.skipped == {"nowhere": "not available: nowhere: the library is not installed"}


@pytest.mark.usefixtures("small")
def test_ring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r"
    result = result_of("ring", out, capsys)
    assert set(result["rows"]) >= RING_ROWS
    assert set(result["targets"]) == {"rtt_sleep_eventfd/eventfd_rtt"}
    assert result["rows"]["record_batch32"]["ops_per_sample"] == 32
    two_cpus = len(os.sched_getaffinity(0)) > 1
    assert ("eventfd_rtt_same_cpu" in result["rows"]) == two_cpus
    assert ("flag_rtt" in result["rows"]) == two_cpus
    assert_left_clean(out)


@pytest.mark.usefixtures("small")
def test_the_table_shows_each_ratio_beside_its_targets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("ring", False, 1, str(tmp_path / "t")) == 0
    lines = capsys.readouterr().out.splitlines()
    line = next(line for line in lines if "rtt_sleep_eventfd/eventfd_rtt " in line)
    assert "1.3" in line
    assert "1.05" in line
    assert any("fewer than 5 rounds" in text for text in lines)


@pytest.mark.parametrize(
    ("which", "rounds", "key"), [("nothing", 5, "bench"), ("ring", 0, "--rounds")]
)
def test_a_wrong_argument_is_named(which: str, rounds: int, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bench(which, True, rounds, None)
    assert caught.value.key == key


def test_too_little_memory_is_said_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="fewer rounds"):
        grant._check_memory(1 << 40)


def test_a_measured_process_that_fails_or_dies_is_reported(tmp_path: Path) -> None:
    run = rundir.create("lab", path=tmp_path / "l")
    with Lab(run) as lab:
        subject = lab.remote("subject", grant.GUEST)
        with pytest.raises(RemoteError, match="PeerGone"):
            subject.ask("attach", run_dir=str(tmp_path), name="vm1")
        assert len(subject.ask("empty", count=3, ops=1)) == 3 * 8
        with pytest.raises(RemoteError, match="no operation is called '_await_credit'"):
            subject.ask("_await_credit")
        os.kill(subject.pid, 9)
        with pytest.raises(RemoteGone, match="SIGKILL"):
            subject.ask("empty", count=3, ops=1)
    run.finish("finished")


def test_machine_facts_say_where_the_ends_ran() -> None:
    placement = cpus.pair()
    facts = cpus.finish(cpus.describe(placement))
    assert facts["domain_cpu"] in os.sched_getaffinity(0)
    assert (facts["serving_cpu"] == facts["domain_cpu"]) == placement.one_cpu
    wanted = {"cpu", "cores", "kernel", "thp", "shmem_thp", "shmem_2m_given", "load_before_1m",
              "load_after_1m", "warnings"}  # fmt: skip
    assert wanted <= set(facts)
    few = facts["cores"] < cpus.CORES_FOR_SPINNING
    assert (cpus.WAKE_WARNING in facts["warnings"]) == few
