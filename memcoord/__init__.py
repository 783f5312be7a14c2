"""memcoord: memory moved between domains on one Linux machine, without Xen and without root.

Owns: the public API. Importing it loads nothing else; a name is fetched when it is first used.

    import memcoord

    with memcoord.Hypervisor(memory="64 MiB") as host:
        with memcoord.attach(host.run_dir, "vm1", maxmem_frames=8192) as vm1:
            frame = vm1.alloc()
            vm1.free(frame)
            print(host.control("statistics")["domains"][0]["current_frames"])

``attach``      joins a hypervisor: this process becomes a domain with memory of its own
``Hypervisor``  starts a hypervisor process, and ends it with the ``with`` block
``control``     asks the hypervisor of a run directory for something: ``messages.OPS`` lists what
``run``         a scenario under several policies, with real processes; ``simulate`` in virtual time
``sweep``       policies, parameters, scenarios and seeds crossed; ``bench`` measures
``open_run``    a finished run as columns of numpy: verdict, table, ticks, decisions, latencies
``open_sweep``  a finished sweep
``Env``         a simulated host as a ``gymnasium.Env`` (extra ``gym``)

Policies are compared in three lines:

    run = memcoord.simulate("usemem", ["greedy", "smart-alloc:P=2", "mine.py:Mine"])
    print(*run.verdict, sep="\\n")
    run.plot("usemem.pdf")
"""

from __future__ import annotations

import importlib

#: As ``typing``'s, which is slow to import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from frontend.attach import attach
    from memcoord.commands.api import bench, run, simulate, sweep
    from memcoord.gym import Env
    from memcoord.testbed.archive.run import open_run
    from memcoord.testbed.archive.sweep import open_sweep
    from memcoord.testbed.live.hypervisor import Hypervisor
    from memcoord.testbed.runs.control_client import call as control

    __version__: str

__all__ = [
    "Env",
    "Hypervisor",
    "__version__",
    "attach",
    "bench",
    "control",
    "open_run",
    "open_sweep",
    "run",
    "simulate",
    "sweep",
]

_HOMES = {
    "attach": "frontend.attach:attach",
    "Hypervisor": "memcoord.testbed.live.hypervisor:Hypervisor",
    "control": "memcoord.testbed.runs.control_client:call",
    "run": "memcoord.commands.api:run",
    "simulate": "memcoord.commands.api:simulate",
    "sweep": "memcoord.commands.api:sweep",
    "bench": "memcoord.commands.api:bench",
    "open_run": "memcoord.testbed.archive.run:open_run",
    "open_sweep": "memcoord.testbed.archive.sweep:open_sweep",
    "Env": "memcoord.gym:Env",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("memcoord")
    elif name in _HOMES:
        module, _, member = _HOMES[name].partition(":")
        value = getattr(importlib.import_module(module), member)
    else:
        raise AttributeError(f"module 'memcoord' has no attribute {name!r}")
    globals()[name] = value
    return value
