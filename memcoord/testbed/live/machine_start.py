"""The start of a domain that is a virtual machine: what it boots, on what, with which rights.

Owns: what must be on this machine before anything starts (``obstacles``), and the rights of the
process. QEMU lives in the namespaces and the control group of its domain's process, so that it ends
with the domain, however that ends. Called by ``memcoord.commands.run`` and
``memcoord.testbed.live.session``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
from pathlib import Path
from typing import NamedTuple

from hypervisor.public.errors import ConfigError
from memcoord.testbed.machines import accelerator
from memcoord.testbed.machines.command_line import PROGRAM
from memcoord.testbed.machines.image import build, debian
from memcoord.testbed.machines.spec import Accelerator
from memcoord.testbed.runs.confine import Rights
from memcoord.testbed.runs.launcher import Child, Launcher
from memcoord.testbed.scenarios.schema import Scenario
from memcoord.testbed.scenarios.virtual_machines import MachineWorkload

MODULE = "memcoord.testbed.stubs.stub"
EXTRA = "qemu.qmp"
APT = f"apt-get install --no-install-recommends {' '.join(debian.PACKAGES)}"
#: What a confined QEMU opens beside its domain's folder: its own descriptors, and KVM.
PROC, KVM = "/proc", "/dev/kvm"


class Booted(NamedTuple):
    """What a machine boots, and the accelerator that works with it."""

    kernel: str
    initrd: str
    accelerator: Accelerator


def check(scenario: Scenario) -> None:
    """ConfigError, before anything starts, when a machine of ``scenario`` cannot be started here.

    The text names what installs what is missing.
    """
    for index, domain in enumerate(scenario.domain):
        if isinstance(domain.workload, MachineWorkload):
            key = f"domain[{index}].workload"
            if shutil.which(PROGRAM) is None:
                raise ConfigError(f"{key}.kind", f"no {PROGRAM} here: {APT}")
            if not _has_qmp():
                raise ConfigError(f"{key}.kind", f"no {EXTRA} here: pip install 'memcoord[vms]'")
            if domain.workload.swap == "tmem" and scenario.tmem == 0:
                raise ConfigError(f"{key}.swap", "the host has no tmem")
            _image(domain.workload, key)


def boots_of(work: MachineWorkload) -> Booted:
    """What ``work`` boots, and on what; the accelerator is probed once for each boot of the host.

    ConfigError as ``check``.
    """
    kernel, initrd = _image(work, "workload")
    found = asyncio.run(accelerator.probe(kernel, initrd))
    return Booted(kernel, initrd, found.accelerator)


def start(
    launcher: Launcher,
    name: str,
    work: MachineWorkload,
    config: Path,
    *,
    group: str,
    secret: str,
) -> Child:
    """Start the process of domain ``name``, told by ``config`` in its folder, confined."""
    booted = boots_of(work)
    files = (booted.kernel, booted.initrd, *([work.disk] if work.disk else []))
    rights = Rights(
        secret=secret,
        reads=(*(str(Path(file).absolute()) for file in files), PROC),
        writes=(KVM,) if booted.accelerator == "kvm" else (),
        builds=(str(config.parent),),
        cgroup=group,
    )
    return launcher.start(name, MODULE, str(config), *booted, rights=rights)


def _image(work: MachineWorkload, key: str) -> tuple[str, str]:
    if work.kernel:
        return str(Path(work.kernel).absolute()), str(Path(work.initrd).absolute())
    if (image := build.built()) is not None:
        return image.kernel, image.initrd
    raise ConfigError(f"{key}.kernel", "no image was built here: memcoord vm build")


def _has_qmp() -> bool:
    try:
        return importlib.util.find_spec(EXTRA) is not None
    except ImportError:  # there is no qemu at all
        return False
