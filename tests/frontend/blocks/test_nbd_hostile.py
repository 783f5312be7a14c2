"""What no client should send: each is answered with an error or let go, and nobody else notices."""

from __future__ import annotations

import contextlib
import errno
import random
import resource
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nbd_client import FIXED_NEWSTYLE, OPTION_MAGIC, Command, NbdClient, NbdError, Option, go_data

import frontend
from frontend._guest import lib
from frontend.blocks import BlockDevice

BLOCK, BLOCKS = 4096, 256
SIZE = BLOCK * BLOCKS
WAIT_S = 60.0
#: Kinds of an answer to an option.
ACK, UNSUPPORTED, POLICY, INVALID, UNKNOWN = 1, 2**31 + 1, 2**31 + 2, 2**31 + 3, 2**31 + 6


@pytest.fixture
def device(make_hypervisor: Any, short_path: Path) -> Iterator[BlockDevice]:
    with (
        frontend.attach(make_hypervisor().path) as domain,
        BlockDevice(domain, SIZE, short_path / "file", connections=3) as made,
    ):
        made.serve(short_path / "sock", greeting_ns=2_000_000_000)
        yield made


@pytest.fixture
def connect(device: BlockDevice, short_path: Path) -> Iterator[Callable[..., NbdClient]]:
    clients: list[NbdClient] = []

    def make(name: str = "", **options: Any) -> NbdClient:
        clients.append(NbdClient(short_path / "sock", name, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def is_let_go(client: NbdClient) -> bool:
    """Whether the server has closed the connection, whatever it had sent before."""
    try:
        while client.socket.recv(1 << 16):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def wait_until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.002)


def works(connect: Any) -> None:
    """A new client is served."""
    with connect() as client:
        client.write(BLOCK, b"w" * BLOCK)
        assert client.read(BLOCK, BLOCK) == b"w" * BLOCK


# The negotiation


def test_every_option_has_an_answer(connect: Any) -> None:
    client = connect(go=False)
    kinds = {
        Option.LIST: (b"", ACK),
        Option.INFO: (go_data(""), ACK),
        Option.STRUCTURED_REPLY: (b"", ACK),
        9: (b"LIST_META_CONTEXT", UNSUPPORTED),
        5: (b"", UNSUPPORTED),  # STARTTLS
        0xFFFFFFFF: (b"x" * 4000, UNSUPPORTED),
    }
    for option, (data, kind) in kinds.items():
        assert client.option(option, data)[-1].kind == kind
    names = client.option(Option.LIST)
    assert names[0].data == struct.pack(">I", 3) + b"vm1"
    for name in ("", "vm1"):
        assert client.option(Option.INFO, go_data(name))[-1].kind == ACK
    assert client.option(Option.ABORT)[-1].kind == ACK
    assert is_let_go(client)


@pytest.mark.parametrize(
    ("option", "data", "kind"),
    [
        (Option.GO, b"", INVALID),
        (Option.GO, bytes(5), INVALID),
        (Option.GO, struct.pack(">IH", 0xFFFFFFFF, 0), INVALID),  # a name longer than the option
        (Option.GO, struct.pack(">IH", 0, 7), INVALID),  # informations that are not there
        (Option.GO, go_data("") + b"x", INVALID),
        (Option.INFO, go_data("another"), UNKNOWN),
        (Option.GO, go_data("v" * 4000), UNKNOWN),
        (Option.LIST, b"x", INVALID),
        (Option.STRUCTURED_REPLY, b"x", INVALID),
    ],
)
def test_a_wrong_option_is_refused_and_the_client_goes_on(
    connect: Any, option: int, data: bytes, kind: int
) -> None:
    client = connect(go=False)
    assert client.option(option, data)[-1].kind == kind
    assert client.option(Option.GO, go_data(""))[-1].kind == ACK
    assert client.read(0, BLOCK) == bytes(BLOCK)


@pytest.mark.parametrize(
    "sent",
    [
        b"x" * 16,
        OPTION_MAGIC + struct.pack(">II", Option.GO, 0xFFFFFFFF),
        OPTION_MAGIC + struct.pack(">II", Option.GO, lib.MC_NBD_OPTION_BYTES + 1),
        OPTION_MAGIC + struct.pack(">II", Option.EXPORT_NAME, 7) + b"another",
        (OPTION_MAGIC + struct.pack(">II", 99, 0)) * (lib.MC_NBD_OPTIONS + 1),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_a_negotiation_that_makes_no_sense_ends(
    device: BlockDevice, connect: Any, sent: bytes
) -> None:
    client = connect(go=False)
    client.socket.sendall(sent)
    assert is_let_go(client)
    wait_until(lambda: device.statistics().broken_off == 1)
    works(connect)


def test_client_flags_that_are_unknown_end_it(short_path: Path, connect: Any) -> None:
    for flags in (0, 0x80000001, 4 | FIXED_NEWSTYLE):
        with socket.socket(socket.AF_UNIX) as made:
            made.connect(str(short_path / "sock"))
            made.sendall(struct.pack(">I", flags))
            made.settimeout(WAIT_S)
            while made.recv(4096):
                pass
    works(connect)


@pytest.mark.parametrize("zeroes", [False, True])
def test_the_old_way_to_begin(short_path: Path, device: BlockDevice, zeroes: bool) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(str(short_path / "sock"))
        made.settimeout(WAIT_S)
        made.recv(18, socket.MSG_WAITALL)
        made.sendall(struct.pack(">I", 1 if zeroes else 3))
        made.sendall(OPTION_MAGIC + struct.pack(">II", Option.EXPORT_NAME, 0))
        answer = made.recv(134 if zeroes else 10, socket.MSG_WAITALL)
        assert struct.unpack(">Q", answer[:8])[0] == SIZE
        assert answer[10:] == bytes(124 if zeroes else 0)
        made.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 3, 7, 0, 0))
        assert made.recv(16, socket.MSG_WAITALL) == struct.pack(">IIQ", 0x67446698, 0, 7)


def test_clients_that_never_finish_their_greeting_are_let_go(
    device: BlockDevice, short_path: Path, connect: Any
) -> None:
    idle = [socket.socket(socket.AF_UNIX) for _ in range(40)]
    try:
        for number, each in enumerate(idle):
            each.connect(str(short_path / "sock"))
            if number % 2:
                with contextlib.suppress(BrokenPipeError):  # turned away already
                    each.send(b"\x00\x00")  # half of the flags
        wait_until(lambda: device.statistics().connections == 0)
        counted = device.statistics()
        assert counted.accepted == device.connections + lib.MC_NBD_GREETING
        assert counted.turned_away == 40 - counted.accepted
        works(connect)
    finally:
        for each in idle:
            each.close()


def test_one_client_more_than_there_are_devices_is_told_so(connect: Any) -> None:
    clients = [connect() for _ in range(3)]
    waiting = connect(go=False)
    assert waiting.option(Option.GO, go_data(""))[-1].kind == POLICY
    clients[0].close()
    kind = POLICY
    until = time.monotonic() + WAIT_S
    while kind == POLICY and time.monotonic() < until:
        again = connect(go=False)
        kind = again.option(Option.GO, go_data(""))[-1].kind
        if kind == POLICY:
            again.close()
    assert kind == ACK
    assert again.read(0, BLOCK) == bytes(BLOCK)


# Requests


@pytest.mark.parametrize("structured", [False, True])
def test_requests_that_cannot_be_done_are_errors_and_the_client_goes_on(
    connect: Any, structured: bool
) -> None:
    client = connect(structured=structured)
    cases = [
        (Command.READ, SIZE, 1, 0, errno.EINVAL),
        (Command.READ, SIZE - 1, 2, 0, errno.EINVAL),
        (Command.READ, 2**64 - 1, 2, 0, errno.EINVAL),
        (Command.READ, 2**63, BLOCK, 0, errno.EINVAL),
        (Command.READ, 0, 0xFFFFFFFF, 0, errno.EINVAL),
        (Command.READ, 0, BLOCK, 4, errno.EINVAL),  # DF was not offered
        (Command.TRIM, SIZE, BLOCK, 0, errno.EINVAL),
        (Command.TRIM, 2**64 - BLOCK, BLOCK, 0, errno.EINVAL),
        (Command.WRITE_ZEROES, SIZE - BLOCK, 2 * BLOCK, 0, errno.ENOSPC),
        (Command.WRITE_ZEROES, 0, BLOCK, 16, errno.EINVAL),  # nor FAST_ZERO
        (Command.CACHE, SIZE, 1, 0, errno.EINVAL),
        (Command.FLUSH, 1, 0, 0, errno.EINVAL),
        (7, 0, BLOCK, 0, errno.EINVAL),
        (0xFFFF, 0, BLOCK, 0, errno.EINVAL),
        (Command.TRIM, 0, BLOCK, 0x8000, errno.EINVAL),
    ]
    for command, offset, count, flags, error in cases:
        with pytest.raises(NbdError) as caught:
            client.answer(
                client.request(command, offset, count, flags=flags),
                count if command == Command.READ else 0,
            )
        assert caught.value.errno == error, (command, offset, count)
    for command in (Command.READ, Command.WRITE, Command.TRIM, Command.WRITE_ZEROES, Command.CACHE):
        client.answer(client.request(command, SIZE, 0))  # no bytes, nothing to do
    client.answer(client.request(Command.CACHE, 0, BLOCK))
    client.write(0, b"f" * BLOCK, flags=1)  # FUA
    assert client.read(0, BLOCK) == b"f" * BLOCK


def test_a_write_out_of_range_takes_its_bytes_along(connect: Any) -> None:
    client = connect()
    for offset in (SIZE, SIZE - BLOCK, 2**64 - BLOCK):
        data = b"x" * (300 * BLOCK)
        with pytest.raises(NbdError) as caught:
            client.write(offset, data)
        assert caught.value.errno == errno.ENOSPC
    with pytest.raises(NbdError):
        client.write(0, b"x" * BLOCK, flags=0x10)
    assert client.read(0, SIZE) == bytes(SIZE)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00" * 28,
        struct.pack(">IHHQQI", 0x67446698, 0, 0, 1, 0, BLOCK),
        struct.pack(">IHHQQI", 0x25609513, 0, Command.WRITE, 1, 0, 0xFFFFFFFF),
        struct.pack(">IHHQQI", 0x25609513, 0, Command.WRITE, 1, 0, lib.MC_NBD_BYTES + 1),
    ],
)
def test_what_is_no_request_ends_the_connection(
    device: BlockDevice, connect: Any, sent: bytes
) -> None:
    client = connect()
    client.socket.sendall(sent)
    assert is_let_go(client)
    wait_until(lambda: device.statistics().broken_off == 1)
    works(connect)


def test_a_client_that_says_good_bye_or_dies_frees_its_place(
    device: BlockDevice, connect: Any
) -> None:
    for _ in range(4):
        clients = [connect() for _ in range(3)]
        clients[0].request(Command.DISCONNECT)
        assert is_let_go(clients[0])
        clients[1].socket.sendall(b"\x25\x60")  # half a magic number
        clients[2].request(Command.WRITE, 0, 8 * BLOCK, b"y" * 100)
        for client in clients:
            client.close()
        wait_until(lambda: device.statistics().connections == 0)
    works(connect)
    assert device.statistics().broken_off == 0


def test_half_a_request_and_a_slow_reader_keep_nobody_waiting(connect: Any) -> None:
    half, slow, quick = connect(), connect(), connect()
    quick.write(0, b"q" * SIZE)
    half.request(Command.WRITE, 0, 64 * BLOCK, b"h" * 1000)
    for _ in range(50):  # 50 MiB of answers that it does not read
        slow.request(Command.READ, 0, SIZE)
    for step in range(50):
        quick.write(step * BLOCK, bytes([step]) * BLOCK)
        assert quick.read(step * BLOCK, BLOCK) == bytes([step]) * BLOCK
    for handle in range(1, 51):
        data = slow.answer(handle, SIZE)
        assert data[50 * BLOCK :] == b"q" * (SIZE - 50 * BLOCK)


def test_requests_sent_a_byte_at_a_time_and_many_at_once(connect: Any) -> None:
    client = connect()
    request = struct.pack(">IHHQQI", 0x25609513, 0, Command.WRITE, 9, BLOCK, 10) + b"0123456789"
    for byte in request:
        client.socket.sendall(bytes([byte]))
    client.answer(9)
    assert client.read(BLOCK, 11) == b"0123456789\x00"
    handles = [client.request(Command.READ, BLOCK, 10) for _ in range(100)]
    assert {client.answer(handle, 10) for handle in handles} == {b"0123456789"}


def test_random_bytes_and_random_requests(device: BlockDevice, connect: Any) -> None:
    rng = random.Random(11)
    for step in range(150):
        client = connect(go=step % 3 > 0)
        for _ in range(rng.randrange(1, 6)):
            if step % 3 == 2:
                head = struct.pack(
                    ">IHHQQI", 0x25609513, rng.choice((0, 1, 2, rng.getrandbits(16))),
                    rng.randrange(9), rng.getrandbits(64),
                    rng.choice((rng.randrange(SIZE), rng.getrandbits(64))),
                    rng.choice((rng.randrange(9000), rng.getrandbits(32))),
                )  # fmt: skip
            else:
                head = b""
            try:
                client.socket.sendall(head + rng.randbytes(rng.randrange(5000)))
            except ConnectionError:
                break
        client.close()
    works(connect)


def test_without_file_descriptors_new_clients_wait_and_then_are_served(
    device: BlockDevice, short_path: Path, connect: Any
) -> None:
    inside = connect()
    waiting = socket.socket(socket.AF_UNIX)
    waiting.settimeout(WAIT_S)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = socket.socket(socket.AF_UNIX)
    number = free.fileno()
    free.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, limits[1]))
    try:
        waiting.connect(str(short_path / "sock"))
        inside.write(0, b"i" * BLOCK)
        assert inside.read(0, BLOCK) == b"i" * BLOCK
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert waiting.recv(18, socket.MSG_WAITALL)[:8] == b"NBDMAGIC"
    waiting.close()


# Clients that others wrote


def run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: apt install qemu-utils, nbdkit, libnbd-bin")
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_qemu_io_writes_reads_and_discards(device: BlockDevice, short_path: Path) -> None:
    commands = (
        "write -P 7 0 600k", "read -P 7 0 600k", "write -P 9 1000 5000", "read -P 9 1000 5000",
        "read -P 7 6000 100k", "discard 0 512k", "read -P 0 0 512k", "read -P 7 512k 88k",
        "write -z 520k 4k", "read -P 0 520k 4k", "write -z 525k 1k", "write -f -P 3 700k 4k",
        "flush", "read -P 3 700k 4k", "aio_write -P 5 800k 64k", "aio_read -P 7 560k 8k",
        "aio_flush", "read -P 5 800k 64k",
    )  # fmt: skip
    arguments = [word for command in commands for word in ("-c", command)]
    said = run("qemu-io", "-f", "raw", *arguments, f"nbd+unix:///?socket={short_path}/sock")
    assert "failed" not in said
    assert device.statistics().errors == 0


def test_qemu_img_copies_an_image_there_and_back(short_path: Path, device: BlockDevice) -> None:
    image, back = short_path / "image", short_path / "back"
    image.write_bytes(random.Random(5).randbytes(SIZE))
    where = f"nbd+unix:///?socket={short_path}/sock"
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), where)
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", where, str(back))
    assert back.read_bytes() == image.read_bytes()


def test_nbdcopy_with_three_connections(short_path: Path, device: BlockDevice) -> None:
    image, back = short_path / "image", short_path / "back"
    image.write_bytes(random.Random(6).randbytes(SIZE))
    where = f"nbd+unix:///?socket={short_path}/sock"
    run("nbdcopy", "--connections=3", str(image), where)
    run("nbdcopy", "--connections=3", where, str(back))
    assert back.read_bytes() == image.read_bytes()
