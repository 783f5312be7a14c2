"""The kind of workload that is a virtual machine: a Linux in QEMU, and a command that runs in it.

Owns: ``MachineWorkload``, and the machine that its domain's sizes make. A domain of this kind books
the machine's memory in the host's ledger; the memory itself is QEMU's. What is missing on this
machine is said by ``memcoord.testbed.live.machine_start``, before anything starts.
``memcoord.testbed.stubs.stub`` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hypervisor.public.units import AREA_BYTES
from memcoord.testbed.machines.actuation import Actuator, Strategy
from memcoord.testbed.machines.spec import (
    BASE_BYTES_MIN,
    Accelerator,
    Balloon,
    MachineSpec,
    Plugged,
    SwapFile,
    SwapServer,
)
from memcoord.testbed.scenarios.programs import TOTAL_MAX, Words
from memcoord.testbed.scenarios.sizes import Size, Wish

#: Mechanisms of the ledger under which a machine's memory may be booked.
BOOKED_BY = ("direct",)
NODES_MAX, PROCESSORS_MAX = 8, 64
#: Linux takes memory of a virtio-mem device in use by blocks of so much, each on one node; what is
#: plugged of a block goes by the device's own, smaller ones.
LINUX_BLOCK_BYTES = 128 << 20
SWAP_MAX = 1 << 40


class MachineWorkload(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="qemu"
):
    """Boot a Linux with the domain's memory and ``run`` a command in it, for ``limit_s`` at most.

    ``resize`` is the device that carries the domain's target. By "virtio-mem" the machine boots
    with ``ram_min`` and the rest is plugged, evenly over ``nodes`` NUMA nodes. By "balloon" it
    boots with ``maxmem``, and the balloon has what it may not use. "reporting" and "fixed" have
    ``ram`` for good; with "reporting" the guest gives free pages back by itself. ``swap`` is a disk
    of ``swap_size``: pages of it lie in tmem, in a file, or there is none. ``work`` names the
    unit of work: a line of the command's output; ``total`` says how many it does.
    """

    # The command in the guest and its arguments.
    run: Annotated[Words, Meta(min_length=1, description="must name a command of the guest")]
    resize: Strategy = "virtio-mem"  # by which device its memory comes and goes
    nodes: Annotated[int, Meta(ge=1, le=NODES_MAX)] = 1  # NUMA nodes of the guest
    processors: Annotated[int, Meta(ge=1, le=PROCESSORS_MAX)] = 1  # of the guest
    block: Size = Size(AREA_BYTES)  # of virtio-mem: the step of its size
    free_page_reporting: bool = False  # the guest gives back pages that it frees
    deflate_on_oom: bool = True  # the guest takes from its balloon before it kills
    swap: Literal["tmem", "disk", "none"] = "disk"  # where its swap disk lies
    swap_size: Size = Size(256 << 20)  # how large
    kernel: str = ""  # "": that of ``memcoord vm build``
    initrd: str = ""  # goes with ``kernel``
    disk: str = ""  # one more disk, raw or qcow2
    work: str = ""  # the name of its unit of work, a line of its output
    # How many units it does; 0: not known.
    total: Annotated[int, Meta(ge=0, le=TOTAL_MAX, description="units of work")] = 0
    # It is ended after so long.
    limit_s: Annotated[float, Meta(gt=0, le=86_400, description="seconds")] = 600.0

    @property
    def resident(self) -> Size:
        """None of its own: its domain's memory is its limit."""
        return Size(0)

    def wishes(self) -> Iterator[Wish]:
        """Conditions beside the bounds of the fields."""
        yield "kernel", bool(self.kernel) == bool(self.initrd), "goes with initrd"
        for key in ("kernel", "initrd", "disk"):
            name = getattr(self, key)
            yield key, not name or Path(name).is_file(), f"no file {name!r}"
        yield "total", not self.total or bool(self.work), "needs work, the name of its unit"
        is_block = self.block >= AREA_BYTES and not self.block & (self.block - 1)
        yield "block", is_block, "must be a power of two of at least 2 MiB"
        is_size = 0 < self.swap_size <= SWAP_MAX and self.swap_size % AREA_BYTES == 0
        yield "swap_size", is_size, "must be whole areas of 2 MiB, and more than none"
        yield "nodes", self.nodes == 1 or self.resize != "balloon", "a balloon knows no nodes"

    def sizes_fit(self, ram: int, ram_min: int, maxmem: int) -> Iterator[Wish]:
        """Conditions on the domain's sizes, under the domain's keys."""
        step = self.nodes * max(int(self.block) if self.resize == "virtio-mem" else 0, AREA_BYTES)
        for key, size in (("ram", ram), ("ram_min", ram_min), ("maxmem", maxmem)):
            yield key, size % step == 0, f"must be a multiple of {step >> 20} MiB in this machine"
        if self.resize == "virtio-mem":
            each = self.nodes * max(int(self.block), LINUX_BLOCK_BYTES)
            why = f"must be ram_min and a multiple of {each >> 20} MiB: Linux plugs by such blocks"
            yield "maxmem", (maxmem - ram_min) % each == 0, why
        base = base_bytes(self, ram, ram_min, maxmem)
        key = "ram_min" if self.resize == "virtio-mem" else "ram"
        why = f"a machine boots with {BASE_BYTES_MIN >> 20} MiB at least"
        yield key, min(base, ram) >= BASE_BYTES_MIN, why

    @property
    def is_resized(self) -> bool:
        """Whether its memory moves at a policy's word."""
        return self.resize in ("virtio-mem", "balloon")


def base_bytes(work: MachineWorkload, ram: int, ram_min: int, maxmem: int) -> int:
    """What the machine boots with, beside what is plugged."""
    return {"virtio-mem": ram_min, "balloon": maxmem}.get(work.resize, ram)


def spec_of(
    work: MachineWorkload,
    ram: int,
    ram_min: int,
    maxmem: int,
    *,
    kernel: str,
    initrd: str,
    swap: SwapFile | SwapServer | None,
    accelerator: Accelerator = "tcg",
) -> MachineSpec:
    """The machine of a domain with these sizes in bytes; ConfigError as ``MachineSpec``."""
    base, plugged = base_bytes(work, ram, ram_min, maxmem), list[Plugged]()
    for node in range(work.nodes if work.resize == "virtio-mem" and maxmem > base else 0):
        most, first = (maxmem - base) // work.nodes, (ram - base) // work.nodes
        plugged.append(Plugged(most, int(work.block), node, first))
    reporting = work.free_page_reporting or work.resize == "reporting"
    return MachineSpec(
        kernel=kernel,
        initrd=initrd,
        disk=work.disk or None,
        memory_bytes=base,
        nodes=work.nodes,
        plugged=tuple(plugged),
        balloon=Balloon(free_page_reporting=reporting, deflate_on_oom=work.deflate_on_oom),
        swap=swap,
        processors=work.processors,
        accelerator=accelerator,
    )


def actuator_of(work: MachineWorkload, spec: MachineSpec, floor_bytes: int) -> Actuator:
    """What leads that machine to its targets."""
    return Actuator(
        work.resize,
        base_bytes=spec.memory_bytes,
        floor_bytes=max(floor_bytes, BASE_BYTES_MIN),
        plugged_max=tuple(device.max_bytes for device in spec.plugged),
        block_bytes=int(work.block),
    )
