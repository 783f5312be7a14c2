"""The measured process of ``memcoord bench build``: a domain, a build in it, and its memory.

Owns: one build in one domain: attach, run ``make`` under the pager, hold what is left for a while,
have the files removed, hold again. The frames are ``build.mirror``'s.
"""

from __future__ import annotations

import os
import resource
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from frontend.pager.program import environment, in_domain, run
from memcoord.benchmarks import measured
from memcoord.benchmarks.builds.mirror import MirroredFamily
from memcoord.benchmarks.builds.project import Project
from memcoord.benchmarks.builds.variants import BY_NAME
from memcoord.benchmarks.measured import Measured
from memcoord.testbed.runs.control_client import call
from memcoord.testbed.runs.remote import operation

MODULE = "memcoord.benchmarks.builds.guest"


class Built(NamedTuple):
    """One build, as it goes over the line. Times are seconds; ``looks`` is of ``build.mirror``."""

    wall_s: float
    cpu_s: float
    mirror_cpu_s: float  # of the process that holds the frames
    delay_s: float  # when that began, in the time of the looks
    clean_s: float
    looks: bytes
    figures: dict[str, int]


class BuildGuest(Measured):
    """The operation."""

    @operation
    def build(
        self, run_dir: str, variant: str, build: str, names: list[str], hold_s: float,
        limit_s: float,
    ) -> Built:  # fmt: skip
        """Build in the domain of ``variant``; RuntimeError when the build fails."""
        how, project = BY_NAME[variant], Project(Path(build), tuple(names))
        where, name = Path(run_dir), domain_name(variant)

        def resize(frames: int) -> None:
            call(where, "mem-set", domain=name, target_frames=frames)

        with in_domain(
            run_dir, name, 0, how.mechanism, str(Path(build).parent), family_of=MirroredFamily
        ) as (domain, family):
            assert isinstance(family, MirroredFamily)
            family.begin(project.outputs, how.asks, how.agent, resize)
            outer = environment(dict(os.environ), family)
            cpu_s, own_s = _children_s(), time.process_time()
            outcome = run(lambda: _started(project.make, outer), domain, family, limit_s=limit_s)
            cpu_s, own_s = _children_s() - cpu_s, time.process_time() - own_s
            if outcome.exit_code or outcome.limited:
                raise RuntimeError(f"make ended with {outcome.exit_code}: {outcome.limited}")
            delay_s = family.elapsed_s
            family.hold(hold_s)
            clean_s = family.elapsed_s
            project.clean()
            family.hold(hold_s)
            looks = family.looks.tobytes()
        return Built(outcome.wall_s, cpu_s, own_s, delay_s, clean_s, looks, outcome.figures)


def domain_name(variant: str) -> str:
    """The name of the domain of a variant."""
    return variant.replace(" ", "_").replace("-", "_")


def _started(argv: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    measured.run(BuildGuest)
