"""``memcoord nbd``: a block device whose blocks are pages in tmem, for any NBD client.

Owns: the choice between a running hypervisor and one of its own, the sizes, the wait for the end,
and what is printed. This process is a domain that has no program: its memory is what the device's
connections need, its pages in tmem are the device's. What the file had to do is reported as the
domain's swapping, so that policies and views see it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import frontend
from frontend.blocks.device import BLOCKS_MAX, STAGING_ORDER, BlockDevice
from hypervisor.public.errors import ConfigError, PeerGone
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES, areas_of, parse_bytes

if TYPE_CHECKING:
    from frontend.domain import Domain
    from memcoord.testbed.live.hypervisor import Hypervisor

ATTACH_S = 30.0
#: Between two reports to the hypervisor, and two looks at whether it serves this domain.
REPORT_S = 0.5
#: Of a hypervisor of one's own, beside the device's pages and the domain: its slack, tmem's own.
SPARE_BYTES = 32 << 20
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Options(msgspec.Struct, frozen=True):
    """The options as given: sizes with their units, None for a default."""

    socket: str
    size: str
    name: str
    file: str | None
    connections: int
    run_dir: str | None
    memory: str | None


def nbd_command(options: Options, as_json: bool) -> int:
    """Serve until a signal says stop; 0. ConfigError when an option is wrong, PeerGone when the
    hypervisor has closed the domain."""
    size = _bytes("--size", options.size)
    if size % FRAME_BYTES or not 1 <= size // FRAME_BYTES <= BLOCKS_MAX:
        raise ConfigError("--size", f"{options.size!r}: whole pages of 4 KiB, at most 1 TiB")
    if options.run_dir is not None and options.memory is not None:
        raise ConfigError("--memory", "a running hypervisor (--run-dir) has its memory already")
    frames = areas_of((options.connections + 1) << STAGING_ORDER) * AREA_FRAMES
    with contextlib.ExitStack() as stack:
        where = options.run_dir
        if where is None:
            served = _hypervisor(options, size, frames)
            where = str(stack.enter_context(served).run_dir)
        domain = stack.enter_context(
            frontend.attach(where, options.name, frames, timeout_s=ATTACH_S, wait=True)
        )
        device = stack.enter_context(
            BlockDevice(domain, size, _file(options), connections=options.connections)
        )
        with _stopping() as stop:
            device.serve(options.socket)
            _tell(f"{options.size} at {options.socket}, domain {options.name} of {where}")
            alive = _serve(domain, device, stop)
        device.close()
        _show(device, as_json)
        if not alive:
            raise PeerGone(f"the hypervisor closed domain {options.name}; its pages are gone")
    return 0


def _serve(domain: Domain, device: BlockDevice, stop: threading.Event) -> bool:
    """Until ``stop``; False when the hypervisor serves the domain no more."""
    used = (device.connections + 1) << STAGING_ORDER
    while not stop.wait(REPORT_S):
        if not domain.alive:
            return False
        counted = device.statistics()
        domain.report(used_frames=used, swap_ins=counted.file_reads, swap_outs=counted.file_writes)
    return True


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that the signals of STOPS set within the block, instead of ending the process."""
    stop = threading.Event()
    before = [signal.signal(number, lambda *_: stop.set()) for number in STOPS]
    try:
        yield stop
    finally:
        for number, handler in zip(STOPS, before, strict=True):
            signal.signal(number, handler)


def _hypervisor(options: Options, size: int, frames: int) -> Hypervisor:
    from hypervisor.config import DomainConfig  # one that runs needs none of it
    from memcoord.testbed.live.compiling import compile_first
    from memcoord.testbed.live.hypervisor import Hypervisor

    least = frames * FRAME_BYTES + SPARE_BYTES
    memory = least + size
    if options.memory is not None:
        memory = _bytes("--memory", options.memory)
        if memory < least:
            raise ConfigError("--memory", f"{options.memory!r}: at least {least >> 20} MiB")
    compile_first(_tell)
    whole = -(-memory // FRAME_BYTES) * FRAME_BYTES
    return Hypervisor(whole, domains=[DomainConfig(options.name, *[frames] * 3, credit_areas=0)])


def _file(options: Options) -> Path:
    if options.file is not None:
        return Path(options.file)
    return Path(tempfile.gettempdir()) / f"memcoord-nbd-{os.getpid()}"


def _bytes(option: str, text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise ConfigError(option, str(error)) from None


def _show(device: BlockDevice, as_json: bool) -> None:
    counted = asdict(device.statistics())
    if as_json:
        sys.stdout.write(msgspec.json.encode(counted).decode() + "\n")
        return
    _tell(
        f"{counted['puts']} blocks went to tmem, {counted['file_writes']} to the file; "
        f"{counted['tmem_reads']} were read from tmem, {counted['file_reads']} from the file, "
        f"{counted['zero_reads']} had not been written"
    )


def _tell(line: str) -> None:
    sys.stderr.write(f"memcoord: {line}\n")
