"""Goal: the doctor always answers, says what a fact means, and knows a bad machine from a good."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from memcoord.commands import doctor
from memcoord.testbed.runs import facts


def by_name() -> dict[str, doctor.Check]:
    return {check.what: check for check in doctor.diagnose()}


def test_every_check_has_a_value_a_level_and_a_meaning() -> None:
    checks = doctor.diagnose()
    assert len({check.what for check in checks}) == len(checks)
    for check in checks:
        assert check.value
        assert check.level in ("ok", "warn", "bad")
        assert check.meaning


def test_few_cores_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert by_name()["cores"].level == "warn"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert by_name()["cores"].level == "ok"


def test_a_busy_machine_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    assert by_name()["load (1 min)"].level == "warn"


def test_an_old_kernel_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "5.10.0-8-amd64")
    assert by_name()["kernel"].level == "bad"


def test_a_small_control_group_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "cgroup_limit_bytes", lambda: 64 << 20)
    check = by_name()["cgroup memory limit"]
    assert (check.level, check.value) == ("bad", "64 MiB")
    assert facts.usable_bytes() == 64 << 20


def test_few_file_descriptors_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    assert by_name()["open files limit"].level == "warn"


def test_a_machine_without_a_compiler_still_gets_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert by_name()["C compiler"].level == "warn"


def test_a_cache_that_cannot_be_written_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    assert by_name()["numba cache"].level == "warn"


def test_json_names_the_worst_level() -> None:
    good, bad = doctor.Check("a", "1", "ok", "m"), doctor.Check("b", "2", "bad", "m")
    assert doctor.to_json([good])["worst"] == "ok"
    assert doctor.to_json([good, bad])["worst"] == "bad"
    assert len(doctor.lines([good, bad])) == 4


@pytest.mark.parametrize("width", [60, 80, 132])
def test_lines_are_no_longer_than_the_terminal(width: int) -> None:
    """But for a single word, as a path is one."""
    for line in doctor.lines(doctor.diagnose(), width):
        assert len(line) <= width or len(line.split()[-1]) > width - 30, line


@pytest.mark.parametrize(
    ("text", "word"),
    [("always [madvise] never", "madvise"), ("[always]", "always"), ("unknown", "unknown")],
)
def test_the_chosen_word_of_a_setting(text: str, word: str) -> None:
    assert facts.chosen(text) == word


def test_a_control_group_limit_is_the_smallest_on_the_way_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {
        "/proc/self/cgroup": "0::/a/b",
        "/sys/fs/cgroup/a/b/memory.max": "max",
        "/sys/fs/cgroup/a/memory.max": "1048576",
    }
    monkeypatch.setattr(facts, "read_text", lambda path: files.get(path, facts.UNKNOWN))
    assert facts.cgroup_limit_bytes() == 1048576
