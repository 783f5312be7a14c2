"""The nurseries of a run: of its hypervisors, and of the domains that replay streams.

Owns: what each of the two loads. A hypervisor and a domain of their own load a third of a second
each, a run of several policies starts dozens, and they share two cores with those that are
measured. Hypervisors and domains have a nursery each: a domain that knows where in memory something
lies in itself knows nothing of the hypervisor.
Rules: begun when the kernels are compiled, which a nursery would do unseen. Real programs are
executed: they inherit the environment that the user gave. Called by ``session``, one for all the
runs of a ``memcoord run``.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Self

from memcoord.testbed.live import hypervisor, hypervisor_main, keeper_main
from memcoord.testbed.runs.nursery import Nursery

GUEST = "memcoord.testbed.guests.replaying"
#: What ``frontend.attach`` imports, which costs nobody anything who does not attach.
ATTACHING = "frontend.handshake"


class Nurseries:
    """A context manager, for the run in ``run_dir``; leaving it ends no process but the two."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        #: By the module that it runs, who forks a process.
        self.forks: dict[str, Nursery] = {}

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self, *, tmem: bool) -> None:
        """Start to load, once; OSError when there are no processes left."""
        if not self.forks:
            for module, loads in loaded(tmem=tmem).items():
                nursery = Nursery(self._run_dir, loads)
                self.forks[module] = self._stack.enter_context(nursery)

    @property
    def cpu_s(self) -> float:
        """CPU time of the two, and of the processes of theirs that have ended."""
        return sum(nursery.cpu_s for nursery in self.forks.values())


def loaded(*, tmem: bool) -> dict[str, list[str]]:
    """What each nursery imports, by the module that its processes run."""
    keeper = [hypervisor.MODULE, *keeper_main.LATER, *hypervisor_main.PARTS]
    keeper += [hypervisor_main.POOL] if tmem else []
    return {hypervisor.MODULE: keeper, GUEST: [GUEST, ATTACHING]}
