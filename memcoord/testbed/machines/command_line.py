"""QEMU's command line for a machine, and the names of what is in it. Pure.

Owns: every word that QEMU is given, and the ids by which its devices are addressed over QMP.
``process`` opens what ``Inherited`` names and starts it.

Guest memory is memfds that the parent has made (share=on), not memory of QEMU's own. The parent
reads by ``fstat`` and SEEK_DATA exactly which bytes of each part have host memory behind them, also
of a part that the guest has unplugged; QEMU's own memory and the code that TCG generates are not in
it. Measured, a balloon then inflates 40 % slower than with anonymous memory; nothing else differs.

Words that stand here because a guest went wrong without them:
  no_timer_check           a guest that boots on busy cores panics: "IO-APIC + timer doesn't work!"
  swiotlb=noforce          a guest with room for more memory reserves 64 MiB for a bounce buffer
  memhp_default_state      memory that is plugged stays offline, or cannot be unplugged
  -nodefaults              devices that nobody asked for
  panic=-1                 a guest that has panicked stays and answers nothing; now it resets, and
                           pvpanic says why
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memcoord.testbed.machines.spec import MachineSpec, OnReboot, SwapFile, SwapServer, full_path

PROGRAM = "qemu-system-x86_64"
#: The port of virtio-serial at which the agent in the guest listens.
AGENT_PORT = "memcoord.agent"
#: By its serial number the guest finds the disk that it shall swap to.
SWAP_SERIAL = "memcoord-swap"
BALLOON = "/machine/peripheral/balloon0"
#: Room for translated code. The default takes 1 GiB of addresses and makes idle guests larger.
TCG_CACHE_MIB = 64
KERNEL_WORDS = (
    *("console=ttyS0", "panic=-1", "quiet", "no_timer_check", "swiotlb=noforce"),
    "memhp_default_state=online_movable",
)


@dataclass(frozen=True)
class Inherited:
    """Descriptors that QEMU is started with: memory by part, and its three connections."""

    memory: Mapping[str, int]
    qmp: int  # a listening socket
    agent: int  # a listening socket
    console: int  # one end of a pair


def base_part(node: int) -> str:
    """The name of the part of memory that a node boots with."""
    return f"ram{node}"


def plugged_part(number: int) -> str:
    """The name of the memory of a virtio-mem device."""
    return f"plug{number}-ram"


def plugged_path(number: int) -> str:
    """Where QMP finds a virtio-mem device."""
    return f"/machine/peripheral/plug{number}"


def memory_parts(spec: MachineSpec) -> dict[str, int]:
    """The parts of a machine's memory, with their bytes, the base first."""
    each = spec.memory_bytes // spec.nodes
    base = {base_part(node): each for node in range(spec.nodes)}
    return base | {plugged_part(at): one.max_bytes for at, one in enumerate(spec.plugged)}


def command_line(spec: MachineSpec, name: str, given: Inherited) -> list[str]:
    """QEMU's arguments, the program first."""
    machine = "q35,hpet=off" + (f",memory-backend={base_part(0)}" if spec.nodes == 1 else "")
    accelerator: str = spec.accelerator
    if accelerator == "tcg":
        accelerator += f",thread=multi,tb-size={TCG_CACHE_MIB}"
    return [
        *(PROGRAM, "-name", _value(name), "-nodefaults", "-no-user-config", "-display", "none"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny"),
        *("-accel", accelerator, "-cpu", "max", "-M", machine),
        *("-smp", f"{spec.processors},sockets={spec.processors}"),
        *_memory(spec, given.memory),
        *_connections(given),
        *_devices(spec),
        *_disks(spec),
        *(("-no-reboot",) if spec.on_reboot is OnReboot.EXIT else ()),
        *("-kernel", full_path(spec.kernel), "-initrd", full_path(spec.initrd)),
        *("-append", " ".join(_kernel_words(spec))),
    ]


def _kernel_words(spec: MachineSpec) -> tuple[str, ...]:
    """What the guest's kernel is told; the image waits for the disk that it shall swap to."""
    swap = () if spec.swap is None else ("memcoord.swap",)
    return (*KERNEL_WORDS, *swap, *spec.kernel_words)


def _memory(spec: MachineSpec, memory: Mapping[str, int]) -> list[str]:
    words = []
    for part, size_bytes in memory_parts(spec).items():
        where = f"mem-path=/proc/self/fd/{memory[part]},share=on"
        words += ["-object", f"memory-backend-file,id={part},size={size_bytes},{where}"]
    slots = 0 if spec.hotplug is None else spec.hotplug.slots
    more = spec.max_bytes > spec.memory_bytes
    size = f"size={spec.memory_bytes}B"
    words += ["-m", f"{size},slots={slots},maxmem={spec.max_bytes}B" if more else size]
    for node in range(spec.nodes if spec.nodes > 1 else 0):
        words += ["-numa", f"node,nodeid={node},memdev={base_part(node)}"]
    if spec.nodes > 1:
        for processor in range(spec.processors):
            words += ["-numa", f"cpu,node-id={processor % spec.nodes},socket-id={processor}"]
    return words


def _connections(given: Inherited) -> list[str]:
    agent = f"virtserialport,chardev=agent0,name={AGENT_PORT}"
    return [
        *("-chardev", f"socket,id=qmp0,fd={given.qmp},server=on,wait=off"),
        *("-mon", "chardev=qmp0,mode=control"),
        *("-chardev", f"socket,id=console0,fd={given.console}", "-serial", "chardev:console0"),
        *("-chardev", f"socket,id=agent0,fd={given.agent},server=on,wait=off"),
        *("-device", "virtio-serial-pci", "-device", agent),
    ]


def _devices(spec: MachineSpec) -> list[str]:
    words = ["-device", "pvpanic-pci"]
    if spec.balloon is not None:
        reporting = f"free-page-reporting={_flag(spec.balloon.free_page_reporting)}"
        oom = f"deflate-on-oom={_flag(spec.balloon.deflate_on_oom)}"
        words += ["-device", f"virtio-balloon-pci,id=balloon0,{oom},{reporting}"]
    for number, device in enumerate(spec.plugged):
        sizes = f"block-size={device.block_bytes},requested-size={device.requested_bytes}"
        memory = f"memdev={plugged_part(number)},node={device.node}"
        words += ["-device", f"virtio-mem-pci,id=plug{number},{memory},{sizes}"]
    for slot in range(0 if spec.hotplug is None else spec.hotplug.slots):
        words += ["-device", f"pcie-root-port,id=hot{slot},slot={slot + 1},chassis={slot + 1}"]
    return words


def _disks(spec: MachineSpec) -> list[str]:
    words = []
    if spec.swap is not None:
        block = _swap(spec.swap)
        words += ["-blockdev", f"node-name=swap0,discard=unmap,{block}"]
        words += ["-device", f"virtio-blk-pci,drive=swap0,serial={SWAP_SERIAL},discard=on"]
    if spec.disk is not None:
        form = "qcow2" if spec.disk.endswith(".qcow2") else "raw"
        where = f"file.driver=file,file.filename={_value(full_path(spec.disk))}"
        words += ["-blockdev", f"node-name=disk0,driver={form},{where}"]
        words += ["-device", "virtio-blk-pci,drive=disk0,serial=memcoord-disk"]
    return words


def _swap(swap: SwapFile | SwapServer) -> str:
    if isinstance(swap, SwapFile):
        file = f"file.driver=file,file.filename={_value(full_path(swap.path))}"
        return f"driver=raw,{file},cache.no-flush=on,file.discard=unmap"
    server = f"server.type=unix,server.path={_value(full_path(swap.socket))}"
    export = f",export={_value(swap.export)}" if swap.export else ""
    return f"driver=nbd,{server}{export},reconnect-delay={swap.reconnect_s}"


def _flag(wanted: bool) -> str:
    return "on" if wanted else "off"


def _value(text: str) -> str:
    """A value among others, in which QEMU takes a doubled comma for one."""
    return text.replace(",", ",,")
