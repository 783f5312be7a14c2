"""Goal: a program says the same in every run, or that it was not right. Method: small ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hypervisor.public.errors import ConfigError, NotCompiled
from memcoord.testbed.applications import shipped
from memcoord.testbed.runs import userfaults
from memcoord.testbed.scenarios import schema

#: Arguments of a short run, what it reports, and how much of its memory it must touch.
SMALL = {
    "als": (["--ratings", "ratings.csv", "--memory", "8", "--iterations", "3"], 3, 8),
    "pagerank": (["--memory", "8", "--iterations", "4"], 4, 8),
    "usemem": (["--step", "2", "--most", "6", "--sweeps", "2"], 6, 6),
}
#: Longer, so that somebody can change its memory meanwhile.
LONG = {
    "als": ["--ratings", "ratings.csv", "--memory", "16", "--iterations", "60"],
    "pagerank": ["--memory", "16", "--iterations", "600"],
    "usemem": ["--step", "16", "--most", "16", "--sweeps", "200"],
}
RUN_S = 60
MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("data")
    shipped.unpack("ratings.csv", found)
    return found


def ran(program: str | Path, words: list[str], folder: Path) -> tuple[str, int]:
    """What it said, and the units it reported."""
    read, write = os.pipe()
    done = subprocess.run(
        [str(program), *words], cwd=folder, capture_output=True, text=True, timeout=RUN_S,
        env={"MEMCOORD_WORK": str(write)}, pass_fds=[write], check=False,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read) as reported:
        units = len(reported.readlines())
    assert done.returncode == 0, done.stderr
    return done.stdout, units


@pytest.mark.parametrize("name", shipped.PROGRAMS)
def test_it_says_the_same_twice_and_reports_each_unit(name: str, folder: Path) -> None:
    words, units, mib = SMALL[name]
    said, reported = ran(shipped.program(name), words, folder)
    assert (said, reported) == ran(shipped.program(name), words, folder)
    assert reported == units
    found = re.fullmatch(r"touched (\d+) MiB, checksum [0-9a-f]{16}\n", said)
    assert found
    assert mib <= int(found[1]) <= 2 * mib
    more = [*words[:-1], str(int(words[-1]) + 1)]
    assert ran(shipped.program(name), more, folder)[0] != said


def test_runs_of_als_repeat_its_work_and_a_file_of_edges_replaces_the_drawn_graph(
    folder: Path,
) -> None:
    words, _, _ = SMALL["als"]
    once = ran(shipped.program("als"), words, folder)
    twice = ran(shipped.program("als"), [*words, "--runs", "2", "--pause", "10"], folder)
    assert twice == (once[0], 6)
    edges = folder / "edges.txt"
    edges.write_text("# from to\n" + "".join(f"{i}\t{i * i % 997}\n" for i in range(1, 3000)))
    words, units, _ = SMALL["pagerank"]
    said, reported = ran(shipped.program("pagerank"), [*words, "--edges", str(edges)], folder)
    assert reported == units
    assert said != ran(shipped.program("pagerank"), words, folder)[0]


@pytest.mark.parametrize("name", shipped.PROGRAMS)
def test_one_wrong_byte_is_seen(name: str, folder: Path) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(
        [str(shipped.program(name)), *LONG[name]], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={"MEMCOORD_WORK": str(write)}, pass_fds=[write],
    )  # fmt: skip
    os.close(write)
    with process, os.fdopen(read, "rb", buffering=0) as reported:
        reported.readline()  # its memory is made
        process.send_signal(signal.SIGSTOP)
        _flip(process.pid)
        process.send_signal(signal.SIGCONT)
        while reported.read(4096):
            pass
        _, wrong = process.communicate(timeout=RUN_S)
    assert process.returncode == 1
    assert b"wrong bytes" in wrong


def _flip(pid: int) -> None:
    """Change a byte in the middle of the process's largest mapping: data, nothing computed."""
    found = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    ours = [words[0].split("-") for words in found if words[4:] == ["0"]]
    bytes_, begin = max((int(end, 16) - int(begin, 16), int(begin, 16)) for begin, end in ours)
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(begin + bytes_ // 2)
        byte = memory.read(1)
        memory.seek(begin + bytes_ // 2)
        memory.write(bytes([byte[0] ^ 1]))


def test_wrong_words_are_named(folder: Path) -> None:
    for words in (["--memory", "-3"], ["--memory", "none"], ["--memry", "3"], ["--memory"]):
        done = subprocess.run(
            [str(shipped.program("pagerank")), *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert words[0] in done.stderr
    empty = folder / "empty.csv"
    empty.write_text("user,movie,rating\n")
    done = subprocess.run(
        [str(shipped.program("als")), "--ratings", str(empty)], capture_output=True, check=False
    )
    assert (done.returncode, b"no line of numbers" in done.stderr) == (1, True)


def test_a_plain_compiler_makes_the_same_program_static(folder: Path, checkout: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    abi = checkout / "memcoord" / "testbed" / "applications" / "abi"
    sources = [str(abi / f"{name}.c") for name in ("als", "app", "pattern", "sparse")]
    made = folder / "als.static"
    subprocess.run(["gcc", "-O2", "-static", "-o", str(made), *sources, "-lm"], check=True)
    words, _, _ = SMALL["als"]
    assert ran(made, words, folder) == ran(shipped.program("als"), words, folder)


def test_the_ratings_are_those_of_the_release(folder: Path) -> None:
    lines = (folder / "ratings.csv").read_text().splitlines()
    assert lines[0] == "user,movie,rating,unix_s"
    assert len(lines) == 1 + 100_004


def domain(name: str, **workload: Any) -> dict[str, Any]:
    sizes = {"maxmem": "32 MiB", "ram": "12 MiB", "mechanism": "balloon"}
    return {"name": name, **sizes, "workload": {"kind": "program", **workload}}


def raw(*domains: dict[str, Any]) -> dict[str, Any]:
    return {"name": "some", "memory": "96 MiB", "interval_ms": 50, "domain": list(domains)}


def test_a_scenario_names_them() -> None:
    with pytest.raises(NotCompiled):
        shipped.program("nothing")
    with pytest.raises(ConfigError, match=r"domain\[0\]\.workload\.argv\[0\]: .*als, pagerank"):
        schema.parse(raw(domain("vm1", argv=["memcoord:nothing"])))
    with pytest.raises(ConfigError, match=r"domain\[0\]\.workload\.files\[0\]: no file"):
        schema.parse(raw(domain("vm1", argv=["memcoord:als"], files=["memcoord:nothing"])))


@pytest.mark.process
def test_short_of_memory_each_says_what_it_says_alone(folder: Path, tmp_path: Path) -> None:
    if obstacle := userfaults.probe().obstacle():
        pytest.skip(obstacle)
    words = {
        "als": ["--ratings", "ratings.csv", "--memory", "24", "--iterations", "3"],
        "pagerank": ["--memory", "24", "--iterations", "4"],
    }
    file, where = tmp_path / "short.toml", tmp_path / "run"
    domains = (
        domain(name, argv=[f"memcoord:{name}", *each], files=["memcoord:ratings.csv"])
        for name, each in words.items()
    )
    file.write_bytes(msgspec.toml.encode(raw(*domains)))
    command = [sys.executable, "-m", "memcoord", "run", str(file), "--json", "--no-alone"]
    command += ["--policy", "greedy", "--run-dir", str(where)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    for each in json.loads(done.stdout)["policies"][0]["domains"]:
        assert each["tmem_hits"] + each["swap_ins"] > 1000
    for name, each in words.items():
        said = (where / "1-greedy" / name / "stdout.txt").read_text()
        assert said == ran(shipped.program(name), each, folder)[0]
