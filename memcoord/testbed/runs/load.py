"""The load of the machine beside a run: whether its times can be compared.

Owns: ``Load`` and the meter that takes it. CPU time that others used is all CPU time of the machine
less what this process and its children used, taken from /proc/stat and getrusage; time that a
hypervisor of this machine took (steal) counts as used by others. Counts such as disk reads bear
load; times do not, so they are marked above OTHERS_CPUS_MAX.
"""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

#: CPUs that others may use on average during a run whose times are to be compared.
OTHERS_CPUS_MAX = 0.25
STAT = Path("/proc/stat")
#: Columns of the first line of /proc/stat that are not work: idle and waiting for a disk.
IDLE, IOWAIT = 3, 4
COLUMNS = 8  # user to steal; what follows is part of user


class Load(msgspec.Struct, frozen=True):
    """Of one run: the load average before and after it, and the CPUs that others used in it."""

    before_1m: float  # load average of the minute before
    after_1m: float  # the same at its end
    others_cpus: float  # CPUs that others used, on average

    @property
    def is_quiet(self) -> bool:
        """Whether times of the run mean anything."""
        return self.others_cpus <= OTHERS_CPUS_MAX


class LoadMeter:
    """Begins to measure when it is made; ``stop`` once the children of the run were reaped."""

    def __init__(
        self,
        stat: Path = STAT,
        own_cpu_s: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stat, self._own_cpu_s, self._clock = stat, own_cpu_s or own_cpu, clock
        self._before_1m = os.getloadavg()[0]
        self._begin = self._now()

    def stop(self) -> Load:
        """The load since it was made."""
        time_s, all_s, own_s = (
            now - then for now, then in zip(self._now(), self._begin, strict=True)
        )
        others = max(all_s - own_s, 0.0) / max(time_s, 1e-9)
        return Load(self._before_1m, os.getloadavg()[0], others)

    def _now(self) -> tuple[float, float, float]:
        return self._clock(), busy_s(self._stat), self._own_cpu_s()


def busy_s(stat: Path) -> float:
    """Seconds of CPU that everybody used since the machine started."""
    words = stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1 : COLUMNS + 1]
    ticks = [int(word) for word in words]
    return (sum(ticks) - ticks[IDLE] - ticks[IOWAIT]) / os.sysconf("SC_CLK_TCK")


def own_cpu() -> float:
    """Seconds of CPU that this process and the children it has reaped used."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)
