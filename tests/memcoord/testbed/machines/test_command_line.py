"""Goal: QEMU is given what a spec says, and a spec that exists can be started."""

from __future__ import annotations

from typing import Any

import pytest

from hypervisor.public.errors import ConfigError
from memcoord.testbed.machines.command_line import Inherited, command_line, memory_parts
from memcoord.testbed.machines.spec import (
    Balloon,
    Hotplug,
    MachineSpec,
    OnReboot,
    Plugged,
    SwapFile,
    SwapServer,
)

MIB = 1 << 20


def spec_of(**keys: Any) -> MachineSpec:
    made = {"kernel": "/k/vmlinuz", "initrd": "/k/initrd", "memory_bytes": 256 * MIB, **keys}
    return MachineSpec(**made)


def words_of(spec: MachineSpec) -> list[str]:
    memory = {part: 10 + at for at, part in enumerate(memory_parts(spec))}
    return command_line(spec, "vm1", Inherited(memory, qmp=3, agent=4, console=5))


def values_of(words: list[str], option: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def test_the_base_is_one_shared_file_that_the_parent_has_made() -> None:
    words = words_of(spec_of())
    shared = f"memory-backend-file,id=ram0,size={256 * MIB},mem-path=/proc/self/fd/10,share=on"
    assert values_of(words, "-object") == [shared]
    assert values_of(words, "-M") == ["q35,hpet=off,memory-backend=ram0"]
    assert values_of(words, "-m") == [f"size={256 * MIB}B"]
    assert values_of(words, "-kernel") == ["/k/vmlinuz"]


def test_what_guests_went_wrong_without_is_there() -> None:
    words = words_of(spec_of(kernel_words=("mitigations=off",)))
    (appended,) = values_of(words, "-append")
    needed = {"no_timer_check", "swiotlb=noforce", "memhp_default_state=online_movable"}
    assert needed | {"console=ttyS0", "mitigations=off"} <= set(appended.split())
    assert "-nodefaults" in words


@pytest.mark.parametrize(("action", "there"), [(OnReboot.EXIT, True), (OnReboot.RESET, False)])
def test_a_reboot_ends_qemu_or_does_not(action: OnReboot, there: bool) -> None:
    assert ("-no-reboot" in words_of(spec_of(on_reboot=action))) is there


def test_each_node_has_memory_and_processors_and_a_device_of_its_own() -> None:
    plugged = tuple(Plugged(max_bytes=128 * MIB, node=node) for node in (0, 1))
    words = words_of(spec_of(nodes=2, processors=2, plugged=plugged))
    assert values_of(words, "-numa") == [
        *("node,nodeid=0,memdev=ram0", "node,nodeid=1,memdev=ram1"),
        *("cpu,node-id=0,socket-id=0", "cpu,node-id=1,socket-id=1"),
    ]
    assert [value for value in values_of(words, "-device") if "virtio-mem" in value] == [
        f"virtio-mem-pci,id=plug{at},memdev=plug{at}-ram,node={at},"
        f"block-size={2 * MIB},requested-size=0"
        for at in (0, 1)
    ]
    assert values_of(words, "-m") == [f"size={256 * MIB}B,slots=0,maxmem={512 * MIB}B"]
    assert "memory-backend" not in values_of(words, "-M")[0]
    assert len(values_of(words, "-object")) == 4


def test_room_for_hotplug_is_slots_ports_and_addresses() -> None:
    words = words_of(spec_of(hotplug=Hotplug(slots=2, max_bytes=64 * MIB)))
    assert values_of(words, "-m") == [f"size={256 * MIB}B,slots=2,maxmem={320 * MIB}B"]
    assert sum("pcie-root-port" in value for value in values_of(words, "-device")) == 2


@pytest.mark.parametrize(
    ("balloon", "there"),
    [
        (None, []),
        (
            Balloon(free_page_reporting=True, deflate_on_oom=False),
            ["virtio-balloon-pci,id=balloon0,deflate-on-oom=off,free-page-reporting=on"],
        ),
    ],
)
def test_the_balloon_is_as_wanted(balloon: Balloon | None, there: list[str]) -> None:
    devices = values_of(words_of(spec_of(balloon=balloon)), "-device")
    assert [value for value in devices if "balloon" in value] == there


def test_swap_is_a_file_or_a_server_and_a_comma_in_a_path_stays_one() -> None:
    (file,) = values_of(words_of(spec_of(swap=SwapFile("/s/a,b"))), "-blockdev")
    assert file.startswith("node-name=swap0,discard=unmap,driver=raw")
    assert "file.filename=/s/a,,b" in file
    (server,) = values_of(words_of(spec_of(swap=SwapServer("/s/nbd", "vm1"))), "-blockdev")
    assert "driver=nbd,server.type=unix,server.path=/s/nbd,export=vm1" in server


@pytest.mark.parametrize(("disk", "form"), [("/d/a.qcow2", "qcow2"), ("/d/a.img", "raw")])
def test_a_disk_is_read_in_its_form(disk: str, form: str) -> None:
    (words,) = values_of(words_of(spec_of(disk=disk)), "-blockdev")
    assert f"driver={form}" in words


def test_the_accelerator_is_the_spec_s() -> None:
    assert values_of(words_of(spec_of(accelerator="kvm")), "-accel") == ["kvm"]
    assert values_of(words_of(spec_of()), "-accel")[0].startswith("tcg,")


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"memory_bytes": 256 * MIB + 4096}, "memory_bytes"),
        ({"memory_bytes": 2 * MIB}, "memory_bytes"),
        ({"memory_bytes": 258 * MIB, "nodes": 2}, "memory_bytes"),
        ({"plugged": (Plugged(max_bytes=3 * MIB),)}, "plugged[0].max_bytes"),
        ({"plugged": (Plugged(max_bytes=0),)}, "plugged[0].max_bytes"),
        ({"plugged": (Plugged(max_bytes=6 * MIB, block_bytes=6 * MIB),)}, "plugged[0].block_bytes"),
        (
            {"plugged": (Plugged(max_bytes=4 * MIB, requested_bytes=6 * MIB),)},
            "plugged[0].requested_bytes",
        ),
        ({"plugged": (Plugged(max_bytes=4 * MIB, node=1),)}, "plugged[0].node"),
        ({"hotplug": Hotplug(slots=1, max_bytes=1)}, "hotplug.max_bytes"),
        ({"kernel_words": ("quiet", "a b")}, "kernel_words[1]"),
    ],
)
def test_a_machine_that_cannot_be_started_is_refused_by_its_key(
    keys: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        spec_of(**keys)
    assert refused.value.key == key
