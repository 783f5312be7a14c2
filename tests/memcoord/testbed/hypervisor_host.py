"""A real hypervisor process for tests, and domains of it."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.config import HypervisorConfig
from hypervisor.public.errors import PeerGone
from hypervisor.public.units import AREA_FRAMES
from memcoord.testbed.runs.control_client import call

AREA = AREA_FRAMES
WAIT_S = 120.0  # the first start on a machine compiles kernels
ANSWER_MS = 60_000

#: A domain that allocates and fills tmem until somebody kills it.
BUSY = """
import sys, frontend
dom = frontend.attach(sys.argv[1], name=sys.argv[2], maxmem_frames=8 * 512)
pool = dom.tmem.new_pool(persistent=True)
frames = dom.alloc_many(1000)
for frame in frames:
    dom.memory[frame * 4096] = 1
print("up", flush=True)
index = 0
while True:
    some = dom.alloc_many(300)
    dom.tmem.put(pool, (1, 2, 3), index % 900, frames[index % 1000])
    dom.free_many(some)
    index += 1
"""


class Host:
    """One hypervisor process."""

    def __init__(self, run_dir: Path, config: HypervisorConfig) -> None:
        self.run_dir = run_dir
        (run_dir / "hypervisor.json").write_bytes(msgspec.json.encode(config))
        self.children: list[subprocess.Popen[str]] = []
        self.start()

    @staticmethod
    def command(run_dir: Path) -> list[str]:
        module = "memcoord.testbed.live.hypervisor_main"
        return [sys.executable, "-P", "-m", module, str(run_dir), "0"]

    def start(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command(self.run_dir), stdin=pipe, stderr=pipe)
        self.wait(self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(PeerGone):
            return bool(call(self.run_dir, "ping", timeout_ms=500))
        return False

    def wait(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < until, "did not happen in time"
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.02)

    def ask(self, op: str, **args: Any) -> Any:
        return call(self.run_dir, op, timeout_ms=ANSWER_MS, **args)

    def free_frames(self) -> int:
        return int(self.ask("statistics")["host"]["free_frames"])

    def events(self, kind: str) -> list[dict[str, Any]]:
        text = (self.run_dir / "events.jsonl").read_text()
        whole = text[: text.rfind("\n") + 1]  # the hypervisor may be writing a line
        return [event for event in map(json.loads, whole.splitlines()) if event["event"] == kind]

    def busy(self, name: str) -> subprocess.Popen[str]:
        return self.run(BUSY, name)

    def run(self, code: str, name: str) -> subprocess.Popen[str]:
        """A domain's process that has printed "up"."""
        command = [sys.executable, "-P", "-c", code, str(self.run_dir), name]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n", child.communicate()[1]
        return child

    def close(self) -> None:
        for process in (*self.children, self.process):
            process.kill()
            process.communicate()


def all_is_back(statistics: dict[str, Any]) -> bool:
    """Whether no domain is there and the host has every frame and page."""
    host = statistics["host"]
    given = host["installed_frames"] + host["ready_frames"] + host["tmem_used_pages"]
    kept = host["free_frames"] + host["tmem_frames"]
    return statistics["domains"] == [] and given == 0 and kept == host["total_frames"]
