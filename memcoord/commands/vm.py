"""``memcoord vm``: what virtual machines boot, and what they run on.

Owns: what these verbs print; ``memcoord.testbed.machines`` does the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hypervisor.public.errors import ConfigError
from hypervisor.public.units import AREA_BYTES, parse_bytes
from memcoord.testbed.machines import accelerator
from memcoord.testbed.machines.agent import Agent
from memcoord.testbed.machines.image import build
from memcoord.testbed.machines.image.compiling import Program
from memcoord.testbed.machines.process import Machine
from memcoord.testbed.machines.spec import MachineSpec, SwapFile

#: What a command that a signal has ended is told as, as a shell tells it.
SIGNALLED = 128


class Boots(NamedTuple):
    """The options that say what is booted; what is not given is our image's."""

    kernel: str | None = None
    initrd: str | None = None
    disk: str | None = None

    def files(self) -> tuple[str, str]:
        """Kernel and initial file system; ConfigError for one that is not there."""
        for key, path in (("--kernel", self.kernel), ("--initrd", self.initrd)):
            if path is not None and not Path(path).is_file():
                raise ConfigError(key, f"{path}: no such file")
        if self.disk is not None and not Path(self.disk).is_file():
            raise ConfigError("--disk", f"{self.disk}: no such file")
        if self.kernel is not None and self.initrd is not None:
            return self.kernel, self.initrd
        if self.kernel is not None:
            raise ConfigError("--kernel", "needs --initrd; `memcoord vm build --kernel` makes one")
        made = build.image(tell=_note)
        return made.kernel, self.initrd or made.initrd


class BuildOptions(NamedTuple):
    """As the verb has them."""

    kernel: str | None = None
    modules: str | None = None
    busybox: str | None = None
    programs: tuple[str, ...] = ()
    again: bool = False


def build_command(options: BuildOptions) -> tuple[dict[str, Any], list[str]]:
    """Make the image, as an object and as lines."""
    recipe = build.Recipe(
        kernel=options.kernel or build.Recipe().kernel,
        modules=options.modules,
        busybox=options.busybox,
        programs=(*build.PROGRAMS, *map(_program, options.programs)),
    )
    made = build.image(recipe, _note, options.again)
    lines = [
        f"kernel    {made.kernel}",
        f"initrd    {made.initrd}",
        f"made of   {made.facts.kernel}; {', '.join(sorted(made.facts.programs))}",
    ]
    return msgspec.to_builtins(made), lines


def probe_command(boots: Boots) -> tuple[dict[str, Any], list[str]]:
    """The accelerator that works here, as an object and as lines."""
    found = asyncio.run(accelerator.probe(*boots.files(), again=True))
    return msgspec.to_builtins(found), [f"{found.accelerator}: {found.why}"]


def run_command(words: Sequence[str], boots: Boots, memory: str, swap: str | None) -> int:
    """Boot a guest, run a command in it, and end it: the command's exit code."""
    memory_bytes = _size("--memory", memory)
    swap_bytes = 0 if swap is None else _size("--swap", swap)
    kernel, initrd = boots.files()
    found = asyncio.run(accelerator.probe(kernel, initrd))
    _note(f"booting with {found.accelerator}")
    with tempfile.TemporaryDirectory(prefix="mc-") as name:
        folder = Path(name)
        file = None
        if swap_bytes:
            file = SwapFile(str(folder / "swap"))
            with Path(file.path).open("wb") as made:
                made.truncate(swap_bytes)
        spec = MachineSpec(
            kernel=kernel,
            initrd=initrd,
            disk=boots.disk,
            memory_bytes=memory_bytes,
            swap=file,
            accelerator=found.accelerator,
        )
        return asyncio.run(_run(spec, folder, words))


async def _run(spec: MachineSpec, folder: Path, words: Sequence[str]) -> int:
    async with Machine(spec, folder, "guest") as machine:
        await machine.booted()
        agent = Agent()
        try:
            await agent.open(machine.agent_path)
            done = await agent.run(words, hear=_show)
        except OSError as error:
            raise ConfigError(words[0], str(error)) from None
        finally:
            await agent.close()
    if done.cut:
        _note(f"{done.cut} bytes of its output were left out")
    return SIGNALLED + (done.signal or 0) if done.exit is None else done.exit


def _program(given: str) -> Program:
    name, equals, source = given.partition("=")
    if not equals or not name.isidentifier() or not Path(source).is_file():
        raise ConfigError("--program", f"{given}: write NAME=FILE.c, with a file that is there")
    return Program(name, (Path(source).absolute(),))


def _size(key: str, text: str) -> int:
    """Bytes in whole areas; ConfigError."""
    try:
        return -(-parse_bytes(text) // AREA_BYTES) * AREA_BYTES
    except ValueError as error:
        raise ConfigError(key, str(error)) from None


def _show(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _note(line: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
