"""``memcoord hypervisor``: one hypervisor by itself, for domains that others start.

Owns: its run directory and where its configuration comes from: a scenario (TOML), a
``hypervisor.json`` of an earlier run, or nothing, which means an open host that any domain of this
user may attach to. The process of the command is the keeper; ``--recover`` asks the keeper of
another command or run to let this installation serve.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec

from hypervisor.config import HypervisorConfig, read, write
from hypervisor.public.errors import ConfigError
from hypervisor.public.messages import SOCKETS, TOKEN_FILE
from hypervisor.public.units import FRAME_BYTES
from memcoord.testbed.live.keeper_main import here, keep
from memcoord.testbed.runs import facts, rundir

OPEN_HOST_BYTES = 256 << 20


def host_command(
    source: str | None, run_dir: str | None, tell: Callable[[str], None] = lambda _: None
) -> int:
    """Serve until SIGINT, SIGTERM or a shutdown request; the exit code. ``tell`` gets one line.

    ConfigError when the configuration or the directory cannot be used.
    """
    config = configuration(source)
    plain = msgspec.to_builtins(config)
    run = rundir.create("hypervisor", path=run_dir, config=plain, again=True, described=False)
    state = "failed"
    try:
        run.record_files([*SOCKETS, TOKEN_FILE])
        write(run.path, config)
        tell(f"serving {run.path}; Ctrl-C ends it")
        code = keep(run.path, meanwhile=run.describe)
        state = "finished" if code == 0 else "failed"
    finally:
        run.finish(state)
    return code


def recover_command(run_dir: str, tell: Callable[[str], None] = lambda _: None) -> int:
    """Have this installation serve ``run_dir``, whose hypervisor it replaces; the exit code.

    ConfigError when nobody keeps the directory, MemcoordError when its keeper refuses: then the
    hypervisor there goes on, or is started again as it was.
    """
    from hypervisor.keeping import takeover
    from memcoord.testbed.runs import control_client

    given = Path(run_dir)
    served = (given / TOKEN_FILE).resolve().parent  # in a run of several policies, a link
    python, packages = here()
    pid = takeover.ask(served, control_client.token_of(served), python, packages)
    tell(f"process {pid} serves {served}")
    return 0


def configuration(source: str | None) -> HypervisorConfig:
    """The checked configuration in ``source``; ConfigError names what is wrong with it."""
    if source is None:
        total = min(OPEN_HOST_BYTES, facts.usable_bytes() // 2)
        return HypervisorConfig(total_frames=total // FRAME_BYTES, open_attach=True)
    if not source.endswith(".json"):
        from memcoord.testbed.scenarios import schema

        what = schema.load(source)
        return schema.to_hypervisor_config(what, what.policies[0])
    config = read(Path(source))
    usable = facts.usable_bytes() // FRAME_BYTES
    if config.total_frames > usable:
        raise ConfigError(
            "total_frames", f"{config.total_frames} is more than this machine has, {usable} frames"
        )
    return config
