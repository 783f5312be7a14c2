"""Goal: programs compute in a domain what they compute outside. Method: real ones, squeezed."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypervisor.public.errors import MemcoordError
from memcoord.testbed.live.hypervisor import Hypervisor

Exec = Callable[..., tuple[subprocess.CompletedProcess[str], dict[str, Any]]]
Words = Callable[[list[str], str], list[str]]

PAGES_MIB = 256
#: Of a changing control value: how often it changes, and between two changes.
TURNS_MAX, TURN_S = 100, 0.7
#: What tmem takes of a domain that is to swap.
FEW_PAGES = 300
#: Of a process, beside what is managed: its stacks, its loader's pages, the pager's tables.
UNMANAGED_KIB = 4096
#: What may be held above the limit, beside pages by force: a window of one fault.
SLACK_PAGES = 64

NUMPY = """
import numpy as np, hashlib
rng = np.random.default_rng(1)
a = rng.random((1200, 1200)); b = rng.random((1200, 1200))
c = np.sort((a + b).ravel()).reshape(1200, 1200); d = np.cumsum(c, axis=0) * a
print(hashlib.sha256(d.tobytes()).hexdigest())
"""
OBJECTS = """
d = {i: str(i) * 3 for i in range(150_000)}
for i in range(0, 150_000, 3): del d[i]
print(sum(len(v) for v in d.values()), len(d))
"""
POOL = """
import multiprocessing, hashlib
data = bytes(range(256)) * 40_000
def work(k): return hashlib.sha256(data[k:] + bytes(k) + data).hexdigest()
if __name__ == "__main__":
    context = multiprocessing.get_context("%s")
    with context.Pool(2) as pool: found = "".join(pool.map(work, range(6)))
    print(hashlib.sha256(found.encode()).hexdigest())
"""


def outside(argv: list[str], **options: object) -> str:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        argv, capture_output=True, text=True, check=True, timeout=120, **options
    ).stdout


def is_running(pid: int) -> bool:
    """Whether it has not ended, even if nobody has waited for it."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


#: Forced pages of a program that forks, at most this part of its limit.
FORCED_SHARE = 64


def is_within(figures: dict[str, int]) -> bool:
    return figures["peak_pages"] <= figures["limit_pages"] + figures["forced_pages"] + SLACK_PAGES


@pytest.mark.parametrize(
    ("source", "domain"), [(NUMPY, "middle"), (OBJECTS, "small"), (POOL % "fork", "middle")]
)
def test_python_computes_the_same(paged: Exec, source: str, domain: str) -> None:
    argv = [sys.executable, "-c", source]
    done, said = paged(argv, domain)
    assert (done.returncode, done.stdout) == (0, outside(argv)), done.stderr
    figures = said["figures"]
    assert figures["tmem_pages_out"] + figures["disk_pages_out"] > 0  # it was short
    assert is_within(figures)
    if figures["forks"]:  # what a fork copies is not merely counted: there is room for it
        assert figures["forced_pages"] <= figures["limit_pages"] // FORCED_SHARE


def test_a_spawned_pool_is_of_the_domain(paged: Exec, tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL % "spawn", encoding="utf-8")
    done, said = paged([sys.executable, str(script)], "middle")
    assert done.stdout == outside([sys.executable, str(script)]), done.stderr
    assert said["figures"]["processes"] >= 3


#: Memory is short and shared: with a child that lives while it grows, then with one that has ended.
SHARED = """
import os, signal
def made(pages):
    made = bytearray(pages * 4096)
    for page in range(pages):
        made[page * 4096 + 7] = 1 + page % 200
    return made

kept = made(2900)
for lives in (True, False):
    assert sum(kept[7::4096]) == sum(1 + page % 200 for page in range(2900))
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        signal.pause() if lives else os._exit(0)
    if not lives:
        os.wait()
    grown = made(3000)
    print(sum(kept[7::4096]), sum(grown[7::4096]))
    if lives:
        os.kill(child, 9)
        os.wait()
    del grown
"""


def test_memory_that_a_fork_shares_is_within_the_limit(paged: Exec) -> None:
    argv = [sys.executable, "-c", SHARED]
    done, said = paged(argv, "small")
    assert (done.returncode, done.stdout) == (0, outside(argv)), done.stderr
    figures = said["figures"]
    assert figures["forks"] == 2
    # How far above the limit is a matter of time: what a write copies is charged when it is found.
    # All of its memory goes out in turn: with what is kept nailed down, a few pages would have to.
    assert figures["faults"] < 2 * 2900, figures


def test_sort_and_xz(paged: Exec, tmp_path: Path) -> None:
    for tool in ("sort", "xz"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    text = tmp_path / "text"
    lines = (hashlib.sha256(str(i).encode()).hexdigest() for i in range(60_000))
    text.write_text("\n".join(lines), encoding="utf-8")
    sort = ["sort", "-S", "16M", "--parallel=2", str(text)]
    done, said = paged(sort, "small")
    assert done.stdout == outside(sort), done.stderr
    assert said["figures"]["faults"] > 0
    done, _ = paged(["sh", "-c", f"xz -1 -c {text} | xz -dc | sha256sum"], "small")
    assert done.stdout.split()[0] == hashlib.sha256(text.read_bytes()).hexdigest(), done.stderr


def test_sqlite(paged: Exec) -> None:
    if shutil.which("sqlite3") is None:
        pytest.skip("no sqlite3")
    query = (
        "create table t(a integer, b text); with recursive n(i) as (select 1 union all select "
        "i + 1 from n where i < 250000) insert into t select i * 7919 % 250007, hex(i * i) from n;"
        "create index x on t(b); select count(*), sum(a), max(b) from t where b > '4';"
    )
    argv = ["sqlite3", ":memory:", query]
    done, said = paged(argv, "small")
    assert (done.returncode, done.stdout) == (0, outside(argv)), done.stderr
    assert said["figures"]["tmem_pages_out"] + said["figures"]["disk_pages_out"] > 0


def test_exit_code_standard_files_and_directory(paged: Exec, tmp_path: Path) -> None:
    script = 'read x; echo "$x $PWD"; echo loud >&2; exit 7'
    done, _ = paged(["sh", "-c", script], input="in\n", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (7, f"in {tmp_path}\n")
    assert "loud\n" in done.stderr
    done, _ = paged(["sh", "-c", "kill -9 $$"])
    assert done.returncode == 128 + signal.SIGKILL


def test_a_program_that_closes_every_descriptor_is_paged_on(paged: Exec) -> None:
    source = (
        "import os\nb = [bytes([i % 251]) * 4096 for i in range(8000)]\n"
        "if os.fork() == 0:\n    os.closerange(3, 4096)\n"
        "    os._exit(any(x != bytes([i % 251]) * 4096 for i, x in enumerate(b)))\n"
        "code = os.wait()[1]\nos.closerange(3, 4096)\n"
        "b += [bytes([i % 241]) * 4096 for i in range(8000)]\n"
        "print(code, all(x == bytes([i % 251]) * 4096 for i, x in enumerate(b[:8000])))"
    )
    done, said = paged([sys.executable, "-c", source], "small")
    assert done.stdout == "0 True\n", done.stderr
    assert said["figures"]["forks"] == 1


@pytest.mark.parametrize(("domain", "threads"), [("small", 1), ("small", 2), ("middle", 3)])
def test_the_random_mapper_reads_what_it_wrote(
    paged: Exec, mapper: Path, domain: str, threads: int
) -> None:
    done, said = paged([str(mapper), str(threads), "5", str(threads), "12000"], domain)
    assert done.returncode == 0, done.stderr
    figures = said["figures"]
    assert figures["tmem_pages_in"] + figures["disk_pages_in"] > 0
    assert figures["forks"] > 0


@contextlib.contextmanager
def controlled(
    served: Hypervisor, op: str, domain: str, key: str, values: list[int]
) -> Iterator[None]:
    """Within the block: set one value after the other, again and again, once it attaches."""
    stop = threading.Event()

    def turn() -> None:
        for count in range(TURNS_MAX):
            with contextlib.suppress(MemcoordError):  # the domain has not attached yet
                served.control(op, domain=domain, **{key: values[count % len(values)]})
            if stop.wait(TURN_S):
                return

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_the_random_mapper_under_a_moving_target(
    paged: Exec, mapper: Path, served: Hypervisor
) -> None:
    sizes = [mib * PAGES_MIB for mib in (10, 60, 20, 120)]
    with controlled(served, "mem-set", "wide", "target_frames", sizes):
        done, said = paged([str(mapper), "9", "8", "2", "24000"], "wide")
    assert done.returncode == 0, done.stderr
    assert said["figures"]["tmem_pages_in"] + said["figures"]["disk_pages_in"] > 0


def test_the_random_mapper_on_a_swap_file(paged: Exec, mapper: Path, served: Hypervisor) -> None:
    with controlled(served, "tmem-set", "small", "target_pages", [FEW_PAGES]):
        done, said = paged([str(mapper), "21", "5", "2", "9000"], "small")
    assert done.returncode == 0, done.stderr
    assert said["figures"]["disk_pages_in"] > 0
    assert said["figures"]["refused_pages"] > 0


def test_what_cannot_be_served_runs_and_is_told(paged: Exec, tmp_path: Path, mapper: Path) -> None:
    compiler = shutil.which("cc")
    source = tmp_path / "s.c"
    source.write_text('#include <stdio.h>\nint main(void) { puts("static"); return 3; }\n')
    command = [str(compiler), "-static", str(source), "-o", str(tmp_path / "s")]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no static C library")
    done, said = paged([str(tmp_path / "s")])
    assert (done.returncode, done.stdout) == (3, "static\n")
    assert "statically" in said["limited"]


def test_what_a_program_leaves_behind_ends_with_its_memory(paged: Exec, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    done, said = paged(["sh", "-c", f"(sleep 60; echo x > {mark}) > /dev/null 2>&1 & exit 0"])
    assert done.returncode == 0
    assert said["left_behind"] >= 1


CHAIN = """
import os, sys
data = [bytes([i % 251]) * 4096 for i in range(1000)]
near, far = os.pipe()
if os.fork() == 0:
    os.close(near)
    for _ in range(30):
        if os.fork():
            os._exit(0)
    assert data == [bytes([i % 251]) * 4096 for i in range(1000)]
    os.write(far, b"whole")
    os._exit(0)
os.close(far)
sys.exit(os.read(near, 16) != b"whole")
"""


def test_who_is_forked_outlives_a_parent_that_ends_at_once(paged: Exec) -> None:
    done, said = paged([sys.executable, "-c", CHAIN])
    assert done.returncode == 0, done.stderr
    assert said["figures"]["forks"] == 31


def test_a_command_that_is_killed_takes_the_program_along(words: Words, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    argv = ["sh", "-c", f"echo $$ > {pid_file}; exec sleep 100"]
    child = subprocess.Popen(words(argv, "small"))
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.kill()
    child.wait()
    pid = int(pid_file.read_text())
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


OUTLIVES_ITS_COMMAND = """
import os, signal, subprocess, sys, time
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(0.5)
os.environ["LD_PRELOAD"] = os.path.dirname(os.environ["MEMCOORD_DOMAIN"]) + "/pager.so"
done = subprocess.run(["sh", "-c", "echo ran"], capture_output=True, text=True)
with open(sys.argv[1] + ".part", "w") as file:
    file.write(f"{done.returncode} {done.stdout}")
os.rename(sys.argv[1] + ".part", sys.argv[1])
"""


def test_a_program_that_starts_once_its_command_was_killed_ends(
    words: Words, tmp_path: Path
) -> None:
    """What ``exec`` loads then finds nobody at its domain's socket, and would have no limit."""
    mark = tmp_path / "mark"
    outside = ["env", "-u", "LD_PRELOAD", sys.executable]
    child = subprocess.Popen(words([*outside, "-c", OUTLIVES_ITS_COMMAND, str(mark)], "small"))
    assert child.wait(60) == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while not mark.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert mark.read_text() == f"{-signal.SIGKILL} "


def test_memory_is_within_the_limit_seen_from_outside(paged: Exec) -> None:
    source = (
        "b = [bytes([i % 251]) * 4096 for i in range(9000)]\nprint(sum(x[7] for x in b))\n"
        "print(*[l.split()[1] for l in open('/proc/self/status') if l.startswith('RssAnon')])"
    )
    done, said = paged([sys.executable, "-c", source], "small")
    total, anonymous_kib = done.stdout.split()
    assert int(total) == sum(i % 251 for i in range(9000)), done.stderr
    assert int(anonymous_kib) <= said["figures"]["limit_pages"] * 4 + UNMANAGED_KIB
