"""Goal: larger programs compute in a domain what they compute outside; those that are installed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Exec = Callable[..., tuple[subprocess.CompletedProcess[str], dict[str, Any]]]
Words = Callable[[list[str], str], list[str]]

RUN_S = 100
MAKEFILE = """
all: $(patsubst %.cc,%.o,$(wildcard *.cc))
%.o: %.cc
\tg++ -std=c++17 -O1 -c $< -o $@
"""
SOURCE = """
#include <map>
#include <string>
#include <unordered_map>
#include <vector>
template <int N> struct Shape {{
    std::map<std::string, std::vector<int>> rows;
    std::unordered_map<int, std::string> names;
    int add(int k) {{
        rows[std::to_string(k + N)].push_back(k);
        names[k] = "n";
        return rows.size();
    }}
}};
int work{number}(int k) {{
    return {calls};
}}
"""
JAVA = """
import java.util.*;
public class Main {
    public static void main(String[] words) throws Exception {
        Map<Integer, String> map = new HashMap<>();
        for (int i = 0; i < 400_000; i++) map.put(i * 7919 % 400_009, "value " + i);
        long sum = 0;
        for (Map.Entry<Integer, String> e : map.entrySet())
            sum += e.getKey() * e.getValue().length();
        Thread[] threads = new Thread[3];
        long[] parts = new long[3];
        for (int t = 0; t < 3; t++) {
            final int mine = t;
            threads[t] = new Thread(() -> {
                for (int i = mine; i < 400_009; i += 3)
                    parts[mine] += map.containsKey(i) ? map.get(i).hashCode() : 1;
            });
            threads[t].start();
        }
        for (Thread thread : threads) thread.join();
        System.out.println(sum + " " + Arrays.toString(parts));
    }
}
"""


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")


def is_out(figures: dict[str, int]) -> bool:
    return figures["tmem_pages_out"] + figures["disk_pages_out"] > 0


def objects(folder: Path, make: Callable[[list[str]], object]) -> dict[str, str]:
    """What ``make -j2`` of a small project made of it in a new folder."""
    folder.mkdir()
    (folder / "Makefile").write_text(MAKEFILE)
    for number in range(3):
        calls = " + ".join(f"Shape<{k}>().add(k)" for k in range(number, number + 12))
        (folder / f"part{number}.cc").write_text(SOURCE.format(number=number, calls=calls))
    make(["make", "-s", "-j2", "-C", str(folder)])
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.o")}


def test_make_and_a_compiler(paged: Exec, tmp_path: Path) -> None:
    needs("make", "g++")
    said: dict[str, Any] = {}

    def inside(argv: list[str]) -> None:
        done, figures = paged(argv, "middle")
        assert done.returncode == 0, done.stderr
        said.update(figures)

    wanted = objects(tmp_path / "outside", lambda argv: subprocess.run(argv, check=True))
    assert objects(tmp_path / "inside", inside) == wanted
    assert len(wanted) == 3
    assert is_out(said["figures"])


def test_a_java_machine(paged: Exec, tmp_path: Path) -> None:
    needs("java", "javac")
    (tmp_path / "Main.java").write_text(JAVA)
    subprocess.run(["javac", "-d", str(tmp_path), str(tmp_path / "Main.java")], check=True)
    argv = ["java", "-XX:+UseSerialGC", "-Xmx96m", "-Xshare:auto", "-cp", str(tmp_path), "Main"]
    outside = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    done, said = paged(argv, "middle")
    assert (done.returncode, done.stdout) == (0, outside), done.stderr
    assert is_out(said["figures"])


class Redis:
    """A server at a socket, and its client."""

    def __init__(self, folder: Path, words: Callable[[list[str]], list[str]]) -> None:
        self._socket = folder / "s"
        options = ["--port", "0", "--unixsocket", str(self._socket), "--dir", str(folder)]
        options += ["--save", "", "--enable-debug-command", "yes"]
        command = words(["redis-server", *options])
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
        self.until(lambda: self._socket.exists() and self.ask("PING") == "PONG")

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + RUN_S
        while not done():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def client(self, program: str, *arguments: str) -> str:
        command = [program, "-s", str(self._socket), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
        return done.stdout.strip()

    def ask(self, *words: str) -> str:
        return self.client("redis-cli", *words)

    def end(self) -> str:
        """What it said on standard error."""
        self.ask("SHUTDOWN", "NOSAVE")
        return self.process.communicate(timeout=RUN_S)[1]


def test_redis_saves_in_the_background_what_it_has(words: Words, tmp_path: Path) -> None:
    needs("redis-server", "redis-benchmark", "redis-cli")
    redis = Redis(tmp_path, lambda argv: words(argv, "small"))
    many = ["-t", "set", "-r", "30000", "-n", "30000", "-d", "700", "-P", "8", "-q"]
    redis.client("redis-benchmark", *many)
    before = redis.ask("DEBUG", "DIGEST")
    assert redis.ask("BGSAVE") == "Background saving started"
    redis.until(lambda: "rdb_bgsave_in_progress:0" in redis.ask("INFO", "persistence"))
    assert "rdb_last_bgsave_status:ok" in redis.ask("INFO", "persistence")
    assert redis.ask("DEBUG", "DIGEST") == before
    size = int(redis.ask("DBSIZE"))
    figures = json.loads(redis.end().strip().splitlines()[-1])["figures"]
    assert size > 10_000
    assert is_out(figures)
    assert figures["forks"] >= 1
    again = Redis(tmp_path, lambda argv: argv)
    assert (again.ask("DEBUG", "DIGEST"), int(again.ask("DBSIZE"))) == (before, size)
    again.end()
