"""The kind of workload that is a real program, unmodified, in a domain of its own.

Owns: ``ProgramWorkload``: what is run, with what around it, and how its progress is counted; what
can be said of it before anything starts. ``memcoord.testbed.guests.program`` runs it.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from frontend.pager import servable
from hypervisor.public.errors import NotCompiled
from memcoord.testbed.applications import shipped
from memcoord.testbed.scenarios.sizes import Size, Wish

#: Mechanisms that move memory by the page and bring none that a program would not touch.
MECHANISMS = ("balloon",)
#: Names for the Python that runs memcoord, which has numpy, whatever the PATH says.
PYTHONS = ("python", "python3")
#: Where a program finds the same Python, the number of the descriptor at which it reports units of
#: work, and a number that differs with the seed of the run.
PYTHON_VARIABLE, WORK_VARIABLE, SEED_VARIABLE = "MEMCOORD_PYTHON", "MEMCOORD_WORK", "MEMCOORD_SEED"
#: Set by memcoord, and by nobody else.
RESERVED = ("MEMCOORD_DOMAIN", PYTHON_VARIABLE, WORK_VARIABLE, SEED_VARIABLE)
TOTAL_MAX = 1 << 53

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

Words = tuple[Annotated[str, Meta(min_length=1)], ...]


class ProgramWorkload(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="program"
):
    """Run ``argv`` with ``env`` added to the environment, in ``cwd``, for at most ``limit_s``.

    Without ``cwd`` it runs in an empty folder of its own, removed at the end, in which ``files``
    are linked. ``memcoord:NAME`` is a program, or a file, that comes with memcoord. ``work`` names
    its unit of work and ``total`` says how many it does. How they are counted: ``reported`` by the
    program, a line for one unit or a number of units each, to the descriptor whose number is in
    MEMCOORD_WORK; ``lines`` of its standard output; ``polled``: the number that ``poll``, a
    command, prints. With ``sandbox`` it is confined as other domains are.
    """

    # The program and its arguments.
    argv: Annotated[Words, Meta(min_length=1, description="must name a program")]
    env: Mapping[str, str] = {}  # added to the environment
    cwd: str = ""  # where it runs; "": an empty folder, removed at the end
    files: Words = ()  # linked into that folder
    work: str = ""  # the name of its unit of work
    # How many units it does; 0: not known.
    total: Annotated[int, Meta(ge=0, le=TOTAL_MAX, description="units of work")] = 0
    count: Literal["reported", "lines", "polled"] = "reported"  # how units are counted
    poll: Words = ()  # a command that prints how many are done
    # It is ended after so long.
    limit_s: Annotated[float, Meta(gt=0, le=86_400, description="seconds")] = 600.0
    sandbox: bool = False  # confined as other domains are

    @property
    def resident(self) -> Size:
        """None of its own: its domain's memory is its limit."""
        return Size(0)

    @property
    def command(self) -> list[str]:
        """What is executed."""
        return [_program(self.argv[0]), *self.argv[1:]]

    @property
    def poll_command(self) -> list[str]:
        """What is executed to count."""
        return [_program(self.poll[0]), *self.poll[1:]] if self.poll else []

    def wishes(self) -> Iterator[Wish]:
        """Conditions beside the bounds of the fields."""
        problem = self._problem_of(self.argv[0])
        yield "argv[0]", not problem, problem
        for name in self.env:
            yield "env", bool(_NAME.match(name)), f"{name!r} is no name of a variable"
            yield "env", name not in RESERVED, f"{name} is set by memcoord"
        yield "cwd", not self.cwd or Path(self.cwd).is_dir(), f"no folder {self.cwd!r}"
        for index, name in enumerate(self.files):
            ours = shipped.named(name)
            is_there = Path(name).exists() if ours is None else ours in shipped.FILES
            yield f"files[{index}]", is_there, f"no file {name!r}"
        yield "total", not self.total or bool(self.work), "needs work, the name of its unit"
        yield "count", self.count == "reported" or bool(self.work), "needs work, the unit's name"
        is_polled = self.count == "polled"
        yield "poll", is_polled == bool(self.poll), 'goes with count = "polled"'
        if is_polled:
            found = servable.find(self.poll_command[0], self.env.get("PATH"))
            yield "poll[0]", found is not None, f"no program {self.poll[0]!r}"

    def _problem_of(self, program: str) -> str:
        """Empty when ``program`` can be run in a domain, else why not."""
        try:
            file = servable.find(_program(program), self.env.get("PATH"))
        except NotCompiled:
            return f"no program {program!r}: there are {', '.join(shipped.PROGRAMS)}"
        if file is None:
            return f"no program {program!r}"
        obstacle = servable.obstacle(file)
        return f"{program!r} cannot be given a limit: {obstacle}" if obstacle else ""


def _program(word: str) -> str:
    """The file that ``word`` means, or the word; NotCompiled for a program of ours that is none."""
    if (ours := shipped.named(word)) is not None:
        return str(shipped.program(ours))
    return sys.executable if word in PYTHONS else word


def environment(work: ProgramWorkload, outer: Mapping[str, str], **more: Any) -> dict[str, str]:
    """What ``work`` gets of the environment ``outer``, its own, and ``more`` as variables."""
    given = {name: str(value) for name, value in more.items()}
    return {**outer, **work.env, PYTHON_VARIABLE: sys.executable, **given}
