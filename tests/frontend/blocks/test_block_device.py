"""A device of tmem over NBD: every byte, whoever owns the block; what is refused, late or lost."""

from __future__ import annotations

import errno
import os
import random
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nbd_client import NbdClient, NbdError

import frontend
from frontend._guest import ffi, lib
from frontend.blocks import BlockDevice
from frontend.domain import Domain
from hypervisor.public.errors import ConfigError, NoMemory

BLOCK, BLOCKS = 4096, 512
WAIT_S = 60.0


@pytest.fixture
def hypervisor(make_hypervisor: Any) -> Any:
    return make_hypervisor()


@pytest.fixture
def domain(hypervisor: Any) -> Iterator[Domain]:
    with frontend.attach(hypervisor.path) as attached:
        yield attached


@pytest.fixture
def device(domain: Domain, short_path: Path) -> Iterator[BlockDevice]:
    with BlockDevice(domain, BLOCKS * BLOCK, short_path / "file") as made:
        made.serve(short_path / "nbd.sock")
        yield made


@pytest.fixture
def connect(device: BlockDevice, short_path: Path) -> Iterator[Callable[..., NbdClient]]:
    clients: list[NbdClient] = []

    def make(**options: Any) -> NbdClient:
        clients.append(NbdClient(short_path / "nbd.sock", **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def content(number: int, blocks: int = 1) -> bytes:
    return random.Random(number).randbytes(blocks * BLOCK)


def wait_until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.002)


@pytest.mark.parametrize("structured", [False, True])
def test_what_was_written_is_read_and_what_was_not_is_zeroes(
    device: BlockDevice, connect: Any, structured: bool
) -> None:
    client = connect(structured=structured)
    assert client.size == BLOCKS * BLOCK
    assert client.structured == structured
    assert client.read(0, 8 * BLOCK) == bytes(8 * BLOCK)
    data = content(1, 300)  # more than a window
    client.write(5 * BLOCK, data)
    assert client.read(4 * BLOCK, 302 * BLOCK) == bytes(BLOCK) + data + bytes(BLOCK)
    counted = device.statistics()
    assert (counted.puts, counted.tmem_blocks, counted.tmem_reads) == (300, 300, 300)
    assert (counted.zero_reads, counted.refused, counted.errors) == (10, 0, 0)
    client.trim(5 * BLOCK, 300 * BLOCK)
    assert client.read(0, BLOCKS * BLOCK) == bytes(BLOCKS * BLOCK)
    counted = device.statistics()
    assert (counted.discards, counted.tmem_blocks) == (300, 0)


def test_a_page_stays_in_tmem_when_it_is_read(connect: Any, hypervisor: Any) -> None:
    client = connect()
    client.write(0, content(1))
    assert client.read(0, BLOCK) == client.read(0, BLOCK) == content(1)
    assert len(hypervisor.pages) == 1
    client.write_zeroes(0, BLOCK)
    assert client.read(0, BLOCK) == bytes(BLOCK)
    assert hypervisor.pages == {}


def test_any_bytes_at_any_offset(connect: Any) -> None:
    client, rng, model = connect(), random.Random(3), bytearray(BLOCKS * BLOCK)
    for step in range(300):
        at = rng.randrange(len(model) - 1)
        count = min(rng.choice((1, 100, 5000, 70 * BLOCK)), len(model) - at)
        what = rng.randrange(4)
        if what == 0:
            data = rng.randbytes(count)
            client.write(at, data)
            model[at : at + count] = data
        elif what == 1:
            client.write_zeroes(at, count)
            model[at : at + count] = bytes(count)
        elif what == 2:  # only whole blocks are discarded
            client.trim(at, count)
            begin, end = -(-at // BLOCK) * BLOCK, (at + count) // BLOCK * BLOCK
            model[begin : max(begin, end)] = bytes(max(end - begin, 0))
        assert client.read(at, count) == model[at : at + count], step
    assert client.read(0, len(model)) == model


def test_what_tmem_refuses_is_in_the_file(
    device: BlockDevice, connect: Any, hypervisor: Any
) -> None:
    client = connect()
    hypervisor.tmem_capacity = 40
    data = content(2, 100)
    client.write(0, data)
    assert client.read(0, len(data)) == data
    counted = device.statistics()
    assert (counted.tmem_blocks, counted.file_blocks, counted.refused) == (40, 60, 60)
    assert (counted.tmem_reads, counted.file_reads, counted.file_writes) == (40, 60, 60)
    hypervisor.tmem_capacity = 1 << 30  # what is written anew comes to tmem
    client.write(50 * BLOCK, content(3, 10))
    assert client.read(0, len(data)) == data[: 50 * BLOCK] + content(3, 10) + data[60 * BLOCK :]
    assert device.statistics().file_blocks == 50


def test_a_refused_overwrite_leaves_no_old_page_in_tmem(
    connect: Any, hypervisor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect()
    client.write(0, content(1, 3))
    monkeypatch.setattr(hypervisor, "_put", lambda key, start: -12)  # as Xen's reserve: old stays
    client.write(BLOCK, content(2))
    assert len(hypervisor.pages) == 2
    assert client.read(0, 3 * BLOCK) == content(1, 3)[:BLOCK] + content(2) + content(1, 3)[-BLOCK:]


def test_a_discarded_block_gives_its_room_in_the_file_back(
    device: BlockDevice, connect: Any, hypervisor: Any
) -> None:
    client = connect()
    hypervisor.tmem_capacity = 0
    client.write(0, content(1, 256))
    fd = device._file.fileno()
    assert os.fstat(fd).st_blocks * 512 >= 256 * BLOCK
    client.trim(0, 255 * BLOCK)
    assert os.fstat(fd).st_blocks * 512 <= 32 * BLOCK
    assert client.read(255 * BLOCK, BLOCK) == content(1, 256)[-BLOCK:]


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Files of this process may not grow beyond ``size``: a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_write_that_neither_takes_is_an_error_and_its_block_unreadable_until_written(
    device: BlockDevice, connect: Any, hypervisor: Any
) -> None:
    client = connect(structured=True)
    client.write(3 * BLOCK, content(1))
    hypervisor.tmem_capacity = 0
    with file_limit(2 * BLOCK):
        client.write(0, content(2))
        with pytest.raises(NbdError) as caught:
            client.write(3 * BLOCK, content(3))
        assert caught.value.errno == errno.ENOSPC
    assert client.read(0, BLOCK) == content(2)
    with pytest.raises(NbdError) as caught:
        client.read(3 * BLOCK, BLOCK)
    assert caught.value.errno == errno.EIO
    assert device.statistics().lost == 1
    client.trim(3 * BLOCK, BLOCK)
    assert client.read(3 * BLOCK, BLOCK) == bytes(BLOCK)


def test_a_page_that_tmem_lost_is_an_error_and_never_other_bytes(
    device: BlockDevice, connect: Any, hypervisor: Any
) -> None:
    client, simple = connect(structured=True), connect()
    client.write(0, content(1, 100))
    hypervisor.pages.clear()
    for each in (client, simple):
        with pytest.raises(NbdError) as caught:
            each.read(10 * BLOCK, BLOCK)
        assert caught.value.errno == errno.EIO
    client.write(0, content(1, 64))
    with pytest.raises(EOFError):  # a simple answer whose first window went well
        simple.read(0, 80 * BLOCK)
    with pytest.raises(NbdError):
        client.read(0, 80 * BLOCK)
    client.write(0, content(2, 100))
    assert client.read(0, 100 * BLOCK) == content(2, 100)


def test_when_the_hypervisor_is_late_writes_go_to_the_file_and_old_pages_never_come_back(
    device: BlockDevice, domain: Domain, connect: Any, hypervisor: Any
) -> None:
    guest = ffi.cast("struct mc_guest *", domain.guest_address)
    client = connect()
    client.write(0, content(1, 64))
    guest.timeout_ns = 50_000_000
    hypervisor.ill = "mute"
    client.write(0, content(2, 32))
    assert client.read(0, 32 * BLOCK) == content(2, 32)
    with pytest.raises(NbdError):
        client.read(40 * BLOCK, BLOCK)
    client.write(8 * BLOCK, content(3, 8))  # does not ask again
    client.trim(63 * BLOCK, BLOCK)
    assert device.statistics().late == 40
    guest.timeout_ns = lib.MC_CALL_TIMEOUT_NS
    hypervisor.ill = ""  # the late requests are served now, the old put among them
    guest_ring = guest.rings[1].ring
    wait_until(lambda: bool(guest_ring.rsp_prod == guest_ring.req_prod))
    expected = content(2, 32)[: 8 * BLOCK] + content(3, 8) + content(2, 32)[16 * BLOCK :]
    expected += content(1, 64)[32 * BLOCK : 63 * BLOCK] + bytes(BLOCK)
    assert client.read(0, 64 * BLOCK) == expected
    client.trim(0, 64 * BLOCK)
    assert client.read(0, 64 * BLOCK) == bytes(64 * BLOCK)
    assert hypervisor.pages == {}


def test_a_late_read_writes_no_frame_that_another_request_uses(
    domain: Domain, connect: Any, hypervisor: Any
) -> None:
    guest = ffi.cast("struct mc_guest *", domain.guest_address)
    client = connect()
    client.write(0, content(1, 64))
    guest.timeout_ns = 50_000_000
    hypervisor.ill = "mute"
    for _ in range(2):  # the second one does not ask
        with pytest.raises(NbdError):
            client.read(0, 64 * BLOCK)
    guest.timeout_ns = lib.MC_CALL_TIMEOUT_NS
    data = content(2, 64)
    handle = client.request(1, 100 * BLOCK, len(data), data[: 60 * BLOCK])
    hypervisor.ill = ""
    guest_ring = guest.rings[1].ring
    wait_until(lambda: bool(guest_ring.rsp_prod == guest_ring.req_prod))
    client.socket.sendall(data[60 * BLOCK :])
    client.answer(handle)
    assert client.read(100 * BLOCK, 64 * BLOCK) == data


def test_without_a_hypervisor_every_client_is_told_and_let_go(
    device: BlockDevice, connect: Any, hypervisor: Any
) -> None:
    clients = [connect(), connect(structured=True), connect()]
    clients[0].write(0, content(1))
    hypervisor.die()
    calls: list[Callable[[NbdClient], Any]] = [
        lambda client: client.read(0, BLOCK),
        lambda client: client.read(0, BLOCK),
        lambda client: client.write(BLOCK, content(2)),
    ]
    for client, call in zip(clients, calls, strict=True):
        with pytest.raises(NbdError) as caught:
            call(client)
        assert caught.value.errno == errno.ESHUTDOWN
        with pytest.raises((EOFError, ConnectionError)):
            client.read(0, BLOCK)


def test_the_domain_closes_its_device_first(hypervisor: Any, short_path: Path) -> None:
    domain = frontend.attach(hypervisor.path)
    device = BlockDevice(domain, BLOCKS * BLOCK, short_path / "file")
    device.serve(short_path / "sock")
    with NbdClient(short_path / "sock") as client:
        client.write(0, content(1))
        domain.close()
        assert device.closed
        assert device.statistics().puts == 1
        with pytest.raises((EOFError, ConnectionError)):
            client.read(0, BLOCK)
    assert os.listdir(short_path) == []
    assert hypervisor.pages == {}


def test_frames_and_the_pool_are_given_back(domain: Domain, short_path: Path) -> None:
    for _ in range(3):
        with BlockDevice(domain, BLOCK, short_path / "file", connections=2) as device:
            taken = domain.statistics()
            device.serve(short_path / "sock")
        device.close()
    after = domain.statistics()
    assert taken.allocs - taken.frees == 3 * 64
    assert after.allocs == after.frees
    with pytest.raises(ValueError, match="closed"):
        device.serve(short_path / "sock")


def test_arguments_that_are_wrong(domain: Domain, short_path: Path) -> None:
    taken = short_path / "taken"
    taken.write_text("mine")
    for size, file, connections, key in (
        (0, "file", 1, "size"), (4095, "file", 1, "size"), (-4096, "file", 1, "size"),
        (4096, "taken", 1, "file"), (4096, "file", 0, "connections"),
        (4096, "file", 65, "connections"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            BlockDevice(domain, size, short_path / file, connections=connections)
        assert caught.value.key == key
    assert taken.read_text() == "mine"
    with pytest.raises(NoMemory):
        BlockDevice(domain, BLOCK, short_path / "file", connections=64)
    with BlockDevice(domain, BLOCK, short_path / "file") as device:
        for path in (taken, short_path / ("x" * 120), short_path / "no" / "sock"):
            with pytest.raises(ConfigError, match="socket"):
                device.serve(path)
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(str(short_path / "sock"))
        stale.close()
        device.serve(short_path / "sock")  # nobody listens there any more
        other = BlockDevice(domain, BLOCK, short_path / "file2", connections=1)
        with other, pytest.raises(ConfigError, match="socket"):
            other.serve(short_path / "sock")
    assert taken.read_text() == "mine"


def test_only_this_user_may_open_the_socket(device: BlockDevice, short_path: Path) -> None:
    assert (short_path / "nbd.sock").stat().st_mode & 0o777 == 0o600


def test_a_forked_child_leaves_the_device_to_its_parent(device: BlockDevice, connect: Any) -> None:
    pid = os.fork()
    if pid == 0:
        device.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    client = connect()
    client.write(0, content(1))
    assert client.read(0, BLOCK) == content(1)


def test_clients_side_by_side_see_each_others_writes(device: BlockDevice, connect: Any) -> None:
    clients = [connect() for _ in range(4)]
    wrong: list[int] = []

    def use(number: int, client: NbdClient) -> None:
        rng, own = random.Random(number), {}
        for step in range(150):
            block = number + 4 * rng.randrange(BLOCKS // 4)  # each has every fourth block
            if rng.random() < 0.5:
                own[block] = content(step)
                client.write(block * BLOCK, own[block])
            elif client.read(block * BLOCK, BLOCK) != own.get(block, bytes(BLOCK)):
                wrong.append(block)
        owned.update(own)

    owned: dict[int, bytes] = {}
    threads = [threading.Thread(target=use, args=pair) for pair in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert wrong == []
    assert len(owned) > 200
    for number, (block, data) in enumerate(owned.items()):
        assert clients[number % 4].read(block * BLOCK, BLOCK) == data
