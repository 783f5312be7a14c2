"""The random mapper for an hour: squeezed, killed, its hypervisor killed. By hand, not by pytest.

``python tests/frontend/pager/soak.py [--minutes 60] [--seed 1] [--hypervisor-kills]``

Owns: the drawing of runs out of the seed, and the count of what they came to. Each run is one
``memcoord exec`` of ``mapper.c`` in a domain whose target, or share of tmem, moves meanwhile; a
third of the programs, and a part of the commands, are killed at a random moment. After each run the
domain is gone and the hypervisor's recount (``validate``) finds nothing wrong. The exit code is 1
when a program read a wrong byte, hung, or ended by itself with an error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypervisor.config import DomainConfig
from hypervisor.public.errors import MemcoordError
from memcoord.testbed.live.hypervisor import Hypervisor

HERE = Path(__file__).parent
MIB_FRAMES = 256
NAME, MOST_MIB = "vm1", 256
RUN_S, SLACK_S = 12.0, 120.0
TURN_S = 0.4


def build(directory: Path) -> Path:
    """The mapper, compiled."""
    out = directory / "mapper"
    flags = ["-std=gnu11", "-O2", "-D_GNU_SOURCE", "-pthread"]
    subprocess.run(["cc", *flags, str(HERE / "mapper.c"), "-o", str(out)], check=True)
    return out


class Soak:
    """One hypervisor, and runs in it."""

    def __init__(self, hypervisor: Hypervisor, mapper: Path, seed: int, kills: bool) -> None:
        self._hypervisor, self._mapper, self._kills = hypervisor, mapper, kills
        self._random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        """One program, from its start to a recount."""
        draw = self._random
        threads, pages = draw.choice((1, 2, 3)), draw.choice((6_000, 12_000, 24_000))
        words = [str(self._mapper), str(draw.randrange(1 << 30)), str(RUN_S), str(threads)]
        command = [
            *(sys.executable, "-m", "memcoord", "exec", "--run-dir"),
            *(str(self._hypervisor.run_dir), "--name", NAME, "--ram", "12MiB"),
            *("--max", f"{MOST_MIB}MiB", "--", *words, str(pages)),
        ]
        child = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        death_s = draw.uniform(1.0, RUN_S) if draw.random() < 1 / 3 else 0.0
        killed = self._watch(child, death_s)
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            self.wrong.append(f"{' '.join(words)} {pages}: it hung")
        said = child.communicate()[1]
        self.counts["runs"] += 1
        if child.returncode and not killed:
            self.wrong.append(f"{' '.join(words)} {pages}: exit code {child.returncode}: {said}")
        self._recount()

    def _watch(self, child: subprocess.Popen[str], death_s: float) -> bool:
        """Squeeze it until it ends; whether it was killed."""
        draw, begin_s, killed = self._random, time.monotonic(), False
        while child.poll() is None and time.monotonic() - begin_s < RUN_S + SLACK_S:
            time.sleep(TURN_S)
            self._squeeze()
            if death_s and not killed and time.monotonic() - begin_s > death_s:
                killed = self._kill(child, of_command=draw.random() < 1 / 4)
            elif self._kills and draw.random() < 1 / 40:
                self._kill_hypervisor()
        return killed

    def _squeeze(self) -> None:
        draw = self._random
        with contextlib.suppress(MemcoordError):  # it has not attached, or has ended
            if draw.random() < 1 / 4:
                pages = draw.choice((300, 2_000, 1 << 20))
                self._hypervisor.control("tmem-set", domain=NAME, target_pages=pages)
            else:
                frames = draw.choice((8, 12, 20, 60)) * MIB_FRAMES
                self._hypervisor.control("mem-set", domain=NAME, target_frames=frames)
            self.counts["squeezes"] += 1

    def _kill(self, child: subprocess.Popen[str], *, of_command: bool) -> bool:
        """SIGKILL for the command, or for one of the program's processes."""
        pid = child.pid
        if not of_command:
            command = ["pgrep", "-f", str(self._mapper)]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            pids = [int(one) for one in found.stdout.split() if int(one) != child.pid]
            if not pids:
                return False
            pid = self._random.choice(pids)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.counts["kills"] += 1
        return True

    def _kill_hypervisor(self) -> None:
        with contextlib.suppress(MemcoordError, ProcessLookupError):
            os.kill(int(self._hypervisor.control("ping")["pid"]), signal.SIGKILL)
            self.counts["hypervisor kills"] += 1

    def _recount(self) -> None:
        deadline_s = time.monotonic() + SLACK_S
        while True:
            try:
                left = [one for one in self._hypervisor.control("list") if one["name"] == NAME]
                if not left:
                    break
            except MemcoordError:
                pass  # it is being started again
            if time.monotonic() > deadline_s:
                self.wrong.append("a domain outlives its program")
                return
            time.sleep(0.05)
        try:
            self._hypervisor.control("validate")
        except MemcoordError as error:
            self.wrong.append(f"validate: {error}")


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hypervisor-kills", action="store_true")
    asked = parser.parse_args()
    domain = DomainConfig(
        name=NAME, maxmem_frames=MOST_MIB * MIB_FRAMES, boot_frames=12 * MIB_FRAMES,
        target_frames=12 * MIB_FRAMES, ram_min_frames=4 * MIB_FRAMES, mechanism="balloon",
    )  # fmt: skip
    end_s = time.monotonic() + asked.minutes * 60
    with tempfile.TemporaryDirectory() as directory:
        mapper = build(Path(directory))
        with Hypervisor("512 MiB", domains=[domain], interval_ms=50) as hypervisor:
            soak = Soak(hypervisor, mapper, asked.seed, asked.hypervisor_kills)
            while time.monotonic() < end_s and not soak.wrong:
                soak.run()
                left_min = (end_s - time.monotonic()) / 60
                say(f"{dict(soak.counts)}, {left_min:.1f} min left")
    for line in soak.wrong:
        say(f"wrong: {line}")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
