"""The start of a domain that runs a real program, confined or with its user's rights.

Owns: which rights the process gets, and the ``Sandbox`` outside a confined one. Called by
``memcoord.testbed.live.session``.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from frontend.pager import servable
from hypervisor.public.errors import MemcoordError
from memcoord.testbed.applications import shipped
from memcoord.testbed.runs.launcher import Child, Launcher
from memcoord.testbed.runs.sandbox import Sandbox, obstacle
from memcoord.testbed.scenarios.programs import ProgramWorkload

MODULE = "memcoord.testbed.guests.program"


def start(
    launcher: Launcher,
    name: str,
    work: ProgramWorkload,
    config: Path,
    *,
    group: str,
    secret: str,
    stack: ExitStack,
) -> Child:
    """Start the process of domain ``name``, told by ``config`` in its folder.

    ``group`` is the control group it lives in, ``secret`` as in ``Rights``; what helps a sandbox
    ends with ``stack``. MemcoordError where a sandbox cannot be given.
    """
    if not work.sandbox:
        return launcher.start(name, MODULE, str(config), group)
    if problem := obstacle():
        raise MemcoordError(f"domain {name}: no sandbox for a program here: {problem}")
    program = servable.find(work.command[0], work.env.get("PATH"))
    files = [name for name in work.files if shipped.named(name) is None]
    reads = [str(Path(path).absolute()) for path in (program, work.cwd, *files) if path]
    box = Sandbox(secret, reads=tuple(reads), builds=(str(config.parent),), cgroup=group)
    stack.enter_context(box)
    arguments = (str(config), "", *map(str, box.fds), box.directory)
    kept = [fd for fd in box.fds if fd >= 0]
    return launcher.start(name, MODULE, *arguments, rights=box.rights, pass_fds=kept)
