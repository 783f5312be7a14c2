"""Goal: a pool survives the SIGKILL of its process with every page that was acknowledged.

Method: a child works on a pool in shared memory and logs every operation before and after. It is
killed at a random instant, in its work or in its recovery, and the next child recovers the pool,
validates it, compares it with what the log says, executes again what was not answered, and goes on.
"""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from restart_child import AREAS, Log, Model, Worker, shared_array

from tmem import Tmem
from tmem.layout import AREA_BYTES

KILLS = 120
ROWS = 100_000  # of all children together
WORK_S = 0.006  # the longest a child works before it is killed
START_S = 60
IN_RECOVERY = 0.25  # of the kills


class Lineage:
    """A pool, its log, and one process after the other that works on it."""

    def __init__(self, options: dict[str, Any], errors: Path) -> None:
        size = Tmem.state_bytes(max_areas=AREAS, **options)
        self.state = shared_array(size // 64 * 64 + 64, np.uint8)
        self.slab = shared_array(AREAS * AREA_BYTES, np.uint8)
        self.log, self.model = Log(ROWS), Model()
        self._options, self._errors = options, errors
        self.children = 0

    def start(self) -> int:
        """A child; 0 in the parent's eyes never."""
        self.model.follow(self.log)
        self.log.words[1] = 0
        self.children += 1
        child = os.fork()
        if child:
            return child
        try:
            first = self.children == 1
            worker = Worker(self.state, self.slab, self.log, self._options, first)
            worker.check(self.model)
            worker.go_on()
            self.log.words[1] = 1
            worker.work(self.children, ROWS // KILLS)
            os._exit(0)
        except BaseException:
            self._errors.write_text(traceback.format_exc())
            os._exit(1)

    def kill(self, child: int, seconds: float, recovered: bool) -> None:
        """Kill it after so many seconds, counted from when it has recovered or from its start."""
        end = time.monotonic() + START_S
        while recovered and not self.log.words[1] and not self._errors.exists():
            assert time.monotonic() < end, "the child does not recover"
            time.sleep(0.0002)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert not self._errors.exists(), self._errors.read_text()
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"dedup": True, "compression": True}, {"dedup_across_clients": True}],
    ids=["plain", "dedup and compression", "dedup across clients"],
)
def test_a_killed_pool_has_every_page_that_was_acknowledged(
    options: dict[str, Any], tmp_path: Path
) -> None:
    rng, lineage = random.Random(5), Lineage(options, tmp_path / "errors")
    lineage.kill(lineage.start(), 0.01, recovered=True)
    for _ in range(KILLS):
        recovered = rng.random() >= IN_RECOVERY
        lineage.kill(lineage.start(), rng.random() * WORK_S, recovered)
    assert lineage.model.done > KILLS, "the children came to nothing"
    assert lineage.model.pages
