"""A domain's process whose domain is a virtual machine: attach, boot, run, answer in one line.

``python -P -m memcoord.testbed.stubs.stub CONFIG KERNEL INITRD ACCELERATOR`` with a
``GuestConfig`` as JSON. It is to its machine what a stub domain of Xen is to a guest: a domain like
any other, which books the machine's memory in the host's ledger, and the parent of its QEMU, which
ends with it. So policies, limits and views know nothing of QEMU. Stands at the gates of the start
barrier, as a replaying domain does, and prints a ``GuestResult`` as one line of JSON; on failure
one line on stderr says why, exit 1. Ends at once when stdin closes.

Owns: the order of its life. In the folder of its domain:

    stdout.txt              what the command in the guest wrote
    events.jsonl            what became of the machine (``attending``)
    console.log, qemu.log   what the guest's console and QEMU said
    outcome.json            the guest's own counters over the run
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

import frontend
from frontend.blocks.device import BlockDevice
from frontend.blocks.statistics import BlockStatistics
from frontend.domain import Domain
from hypervisor.public.errors import MemcoordError
from hypervisor.public.units import FRAME_BYTES
from memcoord.testbed.guests.gates import MADE, READY, stand_at
from memcoord.testbed.guests.replay import GuestConfig, GuestResult
from memcoord.testbed.machines.observation import Observation, Observer
from memcoord.testbed.machines.pilot import Pilot
from memcoord.testbed.machines.process import GuestFailed, Machine, Trouble
from memcoord.testbed.machines.qmp import Monitor
from memcoord.testbed.machines.spec import Accelerator, MachineSpec, SwapFile, SwapServer
from memcoord.testbed.runs.launcher import end_with_parent
from memcoord.testbed.scenarios.virtual_machines import MachineWorkload, actuator_of, spec_of
from memcoord.testbed.stubs.attending import EVENTS, Attendant, Events
from memcoord.testbed.stubs.booking import Booking
from memcoord.testbed.stubs.guest_command import Command

STDOUT, OUTCOME = "stdout.txt", "outcome.json"
#: How long a machine that has booted may take to its first target.
SETTLE_S = 60.0
#: How long after a failure the end of QEMU may become known as its cause.
NEWS_S = 1.0

#: The socket of swap in tmem; areas through which its pages pass, which are no part of the machine.
SWAP_SOCKET, OWN_AREAS = "swap.sock", 1

T = TypeVar("T")


class Disk(NamedTuple):
    """Where the guest's swap is, and the device that serves it out of tmem."""

    where: SwapFile | SwapServer | None
    device: BlockDevice | None = None


class Boots(NamedTuple):
    """What the machine boots, and on what."""

    kernel: str
    initrd: str
    accelerator: Accelerator


class Outcome(msgspec.Struct, frozen=True):
    """The guest's own counters over the run; -1: not known. ``accelerator``: what they hold for."""

    accelerator: str
    wall_s: float
    major_faults: int
    swap_in_pages: int
    swap_out_pages: int
    resident_mib: int
    size_mib: int
    reboots: int


def main(argv: list[str]) -> int:
    """Entry point of the process."""
    if len(argv) != 5:
        sys.stderr.write("usage: CONFIG KERNEL INITRD ACCELERATOR\n")
        return 2
    end_with_parent()
    config = GuestConfig.decode(Path(argv[1]).read_bytes())
    assert isinstance(config.workload, MachineWorkload)
    boots = Boots(argv[2], argv[3], "kvm" if argv[4] == "kvm" else "tcg")
    stand_at(MADE)
    try:
        with frontend.attach(config.directory, config.name, token=config.token) as domain:
            result = asyncio.run(live(config, config.workload, boots, domain))
    except (MemcoordError, OSError) as error:
        sys.stderr.write(f"{config.name}: {error}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    return 0


async def live(
    config: GuestConfig, work: MachineWorkload, boots: Boots, domain: Domain
) -> GuestResult:
    """Boot the machine of ``domain``, run its command, end it; MemcoordError says what failed."""
    folder = Path(config.swap_file).parent
    async with contextlib.AsyncExitStack() as stack:
        disk = stack.enter_context(_swap(config, work, domain))
        booking = Booking(domain, OWN_AREAS if disk.device is not None else 0)
        booking.grow(config.boot_frames * FRAME_BYTES)
        spec = _spec(config, work, boots, disk.where)
        machine = await stack.enter_async_context(Machine(spec, folder, config.name))
        attendant = Attendant(
            domain,
            booking,
            await stack.enter_async_context(_pilot(machine, spec, work, config)),
            Events(folder / EVENTS, config.name),
            swap_bytes=0 if disk.where is None else int(work.swap_size),
        )
        stack.callback(attendant.close)
        result = await _until_it_fails(
            machine, attendant.attend(), _work(config, work, boots, machine, attendant)
        )
        return result if disk.device is None else _with_tmem(result, disk.device.statistics())


async def _work(
    config: GuestConfig,
    work: MachineWorkload,
    boots: Boots,
    machine: Machine,
    attendant: Attendant,
) -> GuestResult:
    folder = Path(config.swap_file).parent
    await machine.booted()
    attendant.is_booted = True
    async with Command(machine, attendant, folder / STDOUT, work) as command:
        with contextlib.suppress(TimeoutError):  # events.jsonl says that it stops short
            await asyncio.wait_for(attendant.is_there.wait(), SETTLE_S)
        await _through(READY)
        before, begin_s = await attendant.look(), time.monotonic()
        await command.run()
        run_s = time.monotonic() - begin_s
        after = await attendant.look()
    outcome = _outcome(boots, before, after, run_s, command)
    (folder / OUTCOME).write_bytes(msgspec.json.format(msgspec.json.encode(outcome)) + b"\n")
    return GuestResult(
        references=attendant.units,
        faults=max(outcome.major_faults, 0),
        tmem_hits=0,
        swap_ins=max(outcome.swap_in_pages, 0),
        swap_outs=max(outcome.swap_out_pages, 0),
        failed_puts=0,
        pages_verified=0,
        run_s=run_s,
        begin_s=begin_s,
    )


async def _through(gate: str) -> None:
    """Stand at ``gate`` while the machine is attended. The thread that waits holds up no end."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[None] = loop.create_future()

    def tell(error: MemcoordError | None) -> None:
        if opened.done():
            return
        if error is None:
            opened.set_result(None)
        else:
            opened.set_exception(error)

    def wait() -> None:
        failed: MemcoordError | None = None
        try:
            stand_at(gate)
        except MemcoordError as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, failed)

    threading.Thread(target=wait, name="gate", daemon=True).start()
    await opened


async def _until_it_fails(
    machine: Machine, attending: Coroutine[Any, Any, None], working: Coroutine[Any, Any, T]
) -> T:
    """The result of ``working``, unless the attendant or QEMU ends before; what ended is raised."""
    attends, works = asyncio.ensure_future(attending), asyncio.ensure_future(working)
    ended = asyncio.ensure_future(machine.ended.wait())
    tasks = (attends, works, ended)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if works.done() and works.exception() is None:
            return works.result()
        if works.done():  # the end of QEMU is told by its connections, too, perhaps by them first
            await asyncio.wait((ended,), timeout=NEWS_S)
        for failed in (works, attends):
            if failed.done() and not ended.done():
                failed.result()
        raise GuestFailed(machine.name, Trouble.ENDED, f"exit status {machine.returncode}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def _pilot(
    machine: Machine, spec: MachineSpec, work: MachineWorkload, config: GuestConfig
) -> AsyncIterator[Pilot]:
    monitor = Monitor(machine.qmp_path, config.name)
    try:
        yield Pilot(
            machine,
            monitor,
            Observer(spec.memory_bytes, spec.max_bytes),
            actuator_of(work, spec, config.ram_min_frames * FRAME_BYTES),
            has_balloon=spec.balloon is not None,
            plugs=len(spec.plugged),
        )
    finally:
        await monitor.close()


@contextlib.contextmanager
def _swap(config: GuestConfig, work: MachineWorkload, domain: Domain) -> Iterator[Disk]:
    """The disk that the guest swaps to, for as long as the block lasts."""
    path = Path(config.swap_file)
    if work.swap == "none":
        yield Disk(None)
    elif work.swap == "disk":
        with path.open("wb") as file:
            file.truncate(int(work.swap_size))
        yield Disk(SwapFile(str(path)))
    else:
        with BlockDevice(domain, int(work.swap_size), path, connections=1) as device:
            socket = path.parent / SWAP_SOCKET
            device.serve(socket)
            yield Disk(SwapServer(str(socket)), device)


def _with_tmem(result: GuestResult, served: BlockStatistics) -> GuestResult:
    """Which of the guest's swap pages were in tmem, and which in the file behind it."""
    return msgspec.structs.replace(
        result,
        tmem_hits=served.tmem_reads,
        swap_ins=served.file_reads,
        swap_outs=served.file_writes,
        failed_puts=served.refused,
    )


def _spec(
    config: GuestConfig, work: MachineWorkload, boots: Boots, swap: SwapFile | SwapServer | None
) -> MachineSpec:
    return spec_of(
        work,
        config.boot_frames * FRAME_BYTES,
        config.ram_min_frames * FRAME_BYTES,
        config.maxmem_frames * FRAME_BYTES,
        kernel=boots.kernel,
        initrd=boots.initrd,
        accelerator=boots.accelerator,
        swap=swap,
    )


def _outcome(
    boots: Boots, before: Observation, after: Observation, wall_s: float, command: Command
) -> Outcome:
    """From the agent, where it told; else from the balloon's statistics."""
    faults = after.major_faults - before.major_faults
    ins = (after.swapped_in_bytes - before.swapped_in_bytes) / FRAME_BYTES
    outs = (after.swapped_out_bytes - before.swapped_out_bytes) / FRAME_BYTES
    told = command.counted()
    return Outcome(
        accelerator=boots.accelerator,
        wall_s=wall_s,
        major_faults=told.get("major_faults", _known(faults)),
        swap_in_pages=told.get("swap_in_pages", _known(ins)),
        swap_out_pages=told.get("swap_out_pages", _known(outs)),
        resident_mib=_known(after.resident_bytes) >> 20,
        size_mib=_known(after.current_bytes) >> 20,
        reboots=after.reboots,
    )


def _known(number: float) -> int:
    return -1 if math.isnan(number) else max(int(number), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
