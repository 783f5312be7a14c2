"""What a virtual machine is made of, as data: memory, devices, disks, what it boots.

Owns: the structs, their bounds, and which sizes go together. A spec that exists can be started:
whatever is wrong with one is a ConfigError that names the key, before anything starts. Paths are
not looked at here. Called by whoever makes a machine; ``command_line`` turns one into QEMU's words.
"""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hypervisor.public.errors import ConfigError
from hypervisor.public.units import AREA_BYTES

#: A Linux of a distribution does not boot in less; QEMU has been tried with no more.
BASE_BYTES_MIN, MACHINE_BYTES_MAX = 96 << 20, 1 << 40
#: Sizes of blocks that QEMU's virtio-mem takes.
BLOCK_BYTES_MIN, BLOCK_BYTES_MAX = AREA_BYTES, 1 << 30
PROCESSORS_MAX, NODES_MAX, PLUGGED_MAX, HOT_SLOTS_MAX = 64, 8, 8, 16
#: A kernel's command line has 2048 bytes.
KERNEL_WORDS_MAX, KERNEL_WORD_CHARS_MAX = 32, 200

Accelerator = Literal["tcg", "kvm"]
Bytes = Annotated[int, Meta(ge=0, le=MACHINE_BYTES_MAX)]
FilePath = Annotated[str, Meta(min_length=1, max_length=4096)]


class OnReboot(StrEnum):
    """What QEMU does when the guest resets itself, as it does after a panic."""

    EXIT = "exit"  # the process ends
    RESET = "reset"  # the guest boots again in the same process


class Plugged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One virtio-mem device: memory above the base that is plugged and unplugged in blocks."""

    max_bytes: Bytes
    block_bytes: Annotated[int, Meta(ge=BLOCK_BYTES_MIN, le=BLOCK_BYTES_MAX)] = AREA_BYTES
    node: Annotated[int, Meta(ge=0, lt=NODES_MAX)] = 0
    requested_bytes: Bytes = 0  # what it asks the guest to plug at first


class Balloon(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The virtio-balloon device, which also reports the guest's statistics."""

    free_page_reporting: bool = False
    deflate_on_oom: bool = True


class SwapFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="file"):
    """Swap in a file of the host, which must be there and have the size of the disk."""

    path: FilePath


class SwapServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="nbd"):
    """Swap that an NBD server on a Unix socket serves; it must listen when QEMU starts."""

    socket: FilePath
    export: Annotated[str, Meta(max_length=255)] = ""
    #: How long requests wait for a server that is gone before they fail in the guest.
    reconnect_s: Annotated[int, Meta(ge=0, le=3600)] = 10


class Hotplug(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Room for memory devices that are added while the guest runs."""

    slots: Annotated[int, Meta(ge=1, le=HOT_SLOTS_MAX)]
    max_bytes: Bytes


class MachineSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A virtual machine. Sizes are bytes, and whole areas of 2 MiB."""

    kernel: FilePath
    initrd: FilePath
    disk: FilePath | None = None  # raw, or qcow2 where the name ends so
    memory_bytes: Annotated[int, Meta(ge=BASE_BYTES_MIN, le=MACHINE_BYTES_MAX)]
    nodes: Annotated[int, Meta(ge=1, le=NODES_MAX)] = 1  # NUMA nodes, which share the base evenly
    plugged: Annotated[tuple[Plugged, ...], Meta(max_length=PLUGGED_MAX)] = ()
    balloon: Balloon | None = Balloon()
    hotplug: Hotplug | None = None
    swap: SwapFile | SwapServer | None = None
    processors: Annotated[int, Meta(ge=1, le=PROCESSORS_MAX)] = 1
    accelerator: Accelerator = "tcg"
    on_reboot: OnReboot = OnReboot.EXIT
    kernel_words: Annotated[tuple[str, ...], Meta(max_length=KERNEL_WORDS_MAX)] = ()

    def __post_init__(self) -> None:
        """ConfigError for sizes that no machine can have, and words that would be several."""
        _check_areas("memory_bytes", self.memory_bytes // self.nodes)
        _check_areas("memory_bytes", self.memory_bytes)
        if not BASE_BYTES_MIN <= self.memory_bytes <= MACHINE_BYTES_MAX:
            limits = f"{BASE_BYTES_MIN} to {MACHINE_BYTES_MAX} bytes"
            raise ConfigError("memory_bytes", f"a machine boots with {limits}")
        for number, device in enumerate(self.plugged):
            _check_plugged(f"plugged[{number}]", device, self.nodes)
        if self.hotplug is not None:
            _check_areas("hotplug.max_bytes", self.hotplug.max_bytes)
        for number, word in enumerate(self.kernel_words):
            if not word.isprintable() or " " in word or not 0 < len(word) <= KERNEL_WORD_CHARS_MAX:
                raise ConfigError(f"kernel_words[{number}]", "must be one printable word")

    @property
    def max_bytes(self) -> int:
        """All memory that this machine can ever have."""
        hot = 0 if self.hotplug is None else self.hotplug.max_bytes
        return self.memory_bytes + sum(device.max_bytes for device in self.plugged) + hot


def _check_areas(key: str, size_bytes: int) -> None:
    if size_bytes <= 0 or size_bytes % AREA_BYTES:
        raise ConfigError(key, "must be whole areas of 2 MiB, on each node, and more than none")


def _check_plugged(key: str, device: Plugged, nodes: int) -> None:
    """Whether QEMU takes such a virtio-mem device; ConfigError names what it would refuse."""
    block = device.block_bytes
    if math.log2(block) % 1 or block < BLOCK_BYTES_MIN:
        raise ConfigError(f"{key}.block_bytes", "must be a power of two from 2 MiB to 1 GiB")
    if device.max_bytes <= 0 or device.max_bytes % block:
        raise ConfigError(f"{key}.max_bytes", f"must be blocks of {block} bytes, one at least")
    if device.requested_bytes % block or device.requested_bytes > device.max_bytes:
        why = f"must be blocks of {block} bytes, {device.max_bytes} bytes at most"
        raise ConfigError(f"{key}.requested_bytes", why)
    if device.node >= nodes:
        raise ConfigError(f"{key}.node", f"the machine has {nodes} nodes, from 0 on")


def full_path(path: str) -> str:
    """An absolute path, which stays right in QEMU's own working directory."""
    return str(Path(path).absolute())
