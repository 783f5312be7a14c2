"""The control plane: requests answered, everything else counted and survived."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from hypervisor.control import ControlPlane
from hypervisor.keeping.calls import CALLS_MAX, Calls, DoneCall
from hypervisor.public.errors import ConfigError
from hypervisor.public.messages import (
    CONTROL_SOCKET,
    DOORBELL_SOCKET,
    MESSAGE_BYTES_MAX,
    OPS,
    STATS_SOCKET,
    TOKEN_BYTES,
    TOKEN_FILE,
    VERSION,
    Reply,
    Request,
    decode,
    encode,
)
from hypervisor.zmtp import CONNECTIONS_PER_PROCESS_MAX

WAIT_MS = 30_000
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


class Plane:
    """A control plane that echoes, and a client."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.served = 0
        self.control = ControlPlane(run_dir, self._serve)
        self.token = (run_dir / TOKEN_FILE).read_text()
        self.context = zmq.Context()
        self.client = self.connect()

    def _serve(self, op: str, args: dict[str, Any]) -> Any:
        self.served += 1
        if args.get("domain") == "unprintable":
            return "\ud800"
        if args.get("domain") == "long":
            return "x" * MESSAGE_BYTES_MAX
        if op == "why":
            raise ConfigError("domain", f"no domain named {args['domain']!r}")
        return [op, args]

    def connect(self) -> zmq.Socket[bytes]:
        made = self.context.socket(zmq.DEALER)
        made.setsockopt(zmq.LINGER, 0)
        made.connect(f"ipc://{self.run_dir / CONTROL_SOCKET}")
        return made

    def round(self, wait_ms: int = 50) -> None:
        """Serve what is ready, as the main loop does."""
        poller = select.poll()
        for fileno, events in self.control.poll_fds().items():
            poller.register(fileno, events)
        for fileno, events in poller.poll(wait_ms):
            self.control.handle(fileno, events)

    def wait(self, done: Callable[[], object]) -> None:
        until = time.monotonic() + WAIT_MS / 1000
        while not done():
            assert time.monotonic() < until
            self.round()

    def request(self, op: str, **args: Any) -> bytes:
        return encode(Request(VERSION, 42, op, args, self.token))

    def tell(self, *frames: bytes) -> None:
        """Have a message handled."""
        before = self.served + self.control.bad
        self.client.send_multipart(list(frames))
        self.wait(lambda: self.served + self.control.bad > before)

    def ask(self, *frames: bytes) -> Reply:
        """The next answer, after a message was handled."""
        self.tell(*frames)
        self.wait(lambda: self.client.poll(0))
        message = decode(self.client.recv())
        assert isinstance(message, Reply)
        return message

    def close(self) -> None:
        self.client.close(0)
        self.context.term()
        self.control.close()


@pytest.fixture
def plane(short_path: Path) -> Iterator[Plane]:
    made = Plane(short_path)
    yield made
    made.close()
    assert list(short_path.iterdir()) == []


def request(op: str, **args: Any) -> bytes:
    return encode(Request(VERSION, 42, op, args))


def test_a_request_is_answered_under_its_id(plane: Plane) -> None:
    assert plane.ask(request("ping")) == Reply(VERSION, 42, "", ["ping", {}])


@pytest.mark.parametrize("token", ["", "0" * 64, "\u20ac"])
def test_without_the_token_a_hypervisor_only_says_that_it_lives(plane: Plane, token: str) -> None:
    for op, args in OPS.items():
        asked = {name: kind() for name, kind in args.items()}
        said = plane.ask(encode(Request(VERSION, 42, op, asked, token)))
        assert (said.error == "") == (op == "ping")
        assert op == "ping" or "token" in said.error
    assert plane.control.bad == len(OPS) - 1


def test_the_token_is_the_operators_alone(plane: Plane) -> None:
    assert (plane.run_dir / TOKEN_FILE).stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(plane.token)) == TOKEN_BYTES


def test_a_crowd_of_silent_peers_keeps_nobody_out(plane: Plane) -> None:
    crowd = []
    for name in (CONTROL_SOCKET, STATS_SOCKET, DOORBELL_SOCKET):
        for _ in range(4 * CONNECTIONS_PER_PROCESS_MAX):
            crowd.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            crowd[-1].settimeout(5)
            crowd[-1].connect(str(plane.run_dir / name))
            plane.round(0)
    assert len(plane.control.poll_fds()) <= 3 + 3 * CONNECTIONS_PER_PROCESS_MAX
    assert plane.ask(request("ping")).result == ["ping", {}]
    for peer in crowd:
        peer.close()


@pytest.mark.parametrize(
    "said",
    [
        GREETING + b"\x04\xff" + b"\x05READY" + b"\xff" * 300,
        GREETING + b"\x00\x01x",
        GREETING + b"\xf8\x01x",
        GREETING + b"\x02" + b"\xff" * 8,
        GREETING[:10] + b"\x02" + bytes(60),
        GREETING.replace(b"NULL", b"CURV"),
        b"\xff" * 64,
    ],
)
def test_what_is_no_zmtp_costs_its_sender_the_connection(plane: Plane, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.connect(str(plane.run_dir / CONTROL_SOCKET))
        raw.setblocking(False)
        raw.send(said)

        def is_over() -> bool:
            with contextlib.suppress(BlockingIOError):
                return raw.recv(4096) == b""
            return False

        plane.wait(is_over)
    assert plane.ask(request("ping")).result == ["ping", {}]


def test_a_long_message_arrives_and_an_envelope_comes_back(plane: Plane) -> None:
    long = {"domain": "v" * (MESSAGE_BYTES_MAX - 500)}
    assert plane.ask(plane.request("tmem-list", **long)).result == ["tmem-list", long]
    plane.tell(b"envelope", plane.request("list"))
    plane.wait(lambda: plane.client.poll(0))
    assert plane.client.recv_multipart()[0] == b"envelope"


def test_only_bells_under_identities_that_were_given_out_are_taken(plane: Plane) -> None:
    plane.control.expect_doorbell("given")
    for identity, is_taken in ((b"vm1", False), (b"given", True)):
        with plane.context.socket(zmq.DEALER) as bell:
            bell.linger, bell.routing_id = WAIT_MS, identity
            bell.connect(f"ipc://{plane.run_dir / DOORBELL_SOCKET}")
            bell.send(b"")
            if is_taken:
                plane.wait(plane.control.doorbells)
            else:
                for _ in range(20):
                    plane.round()
                assert not plane.control.doorbells()


def test_nobody_takes_over_the_bell_of_another(plane: Plane) -> None:
    plane.control.expect_doorbell("given")
    bells = []
    for _ in range(2):
        bells.append(plane.context.socket(zmq.DEALER))
        bells[-1].linger, bells[-1].routing_id = 0, b"given"
        bells[-1].connect(f"ipc://{plane.run_dir / DOORBELL_SOCKET}")
        bells[-1].send(b"")
        if len(bells) == 1:
            plane.wait(plane.control.doorbells)
    for _ in range(20):
        plane.round()
    plane.control.ring("given")
    plane.wait(lambda: bells[0].poll(0))
    assert not bells[1].poll(100)
    for bell in bells:
        bell.close(0)


def test_an_answer_that_is_no_unicode_is_refused_and_survived(plane: Plane) -> None:
    asked = plane.request("why", domain="unprintable")
    assert "UnicodeEncodeError" in plane.ask(asked).error
    assert plane.ask(request("ping")).error == ""


def test_a_call_that_comes_again_is_carried_out_once(plane: Plane) -> None:
    call = encode(Request(VERSION, 7, "mem-set", {"domain": "a", "target_frames": 1}, plane.token))
    first, served = plane.ask(call), plane.served
    plane.client.send(call)
    plane.wait(lambda: plane.client.poll(0))
    assert decode(plane.client.recv()) == first
    assert plane.served == served
    other = encode(Request(VERSION, 8, "mem-set", {"domain": "a", "target_frames": 1}, plane.token))
    plane.ask(other)
    assert plane.served == served + 1


def test_only_the_last_calls_are_known() -> None:
    calls = Calls()
    for number in range(1, CALLS_MAX + 2):
        calls.begin(number, "mem-set")
        calls.done({"n": number})
    kept = Calls(calls.keep())
    assert kept.find(1, "mem-set") is None
    assert [kept.find(number, "mem-set") for number in (2, CALLS_MAX + 1)] == [
        DoneCall(2, "mem-set", {"n": 2}),
        DoneCall(CALLS_MAX + 1, "mem-set", {"n": CALLS_MAX + 1}),
    ]


def test_a_refusal_is_an_answer(plane: Plane) -> None:
    assert "vm9" in plane.ask(plane.request("why", domain="vm9")).error
    assert plane.control.bad == 0


@pytest.mark.parametrize(
    ("op", "args", "names"),
    [
        ("reboot", {}, "unknown op"),
        ("ping", {"x": 1}, "takes"),
        ("mem-set", {"domain": "vm1", "target_frames": "many"}, "wants int"),
        ("mem-set", {"domain": "vm1", "target_frames": True}, "wants int"),
        ("why", {}, "takes"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    plane: Plane, op: str, args: dict[str, Any], names: str
) -> None:
    assert names in plane.ask(plane.request(op, **args)).error
    assert plane.control.bad == 1


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\xff" * 50],
        [request("ping")[:-2]],
        [b"1", b"2", b"3", b"4", b"5"],
        [encode(Reply(VERSION, 1, "", None))],
    ],
)
def test_garbage_is_counted_and_not_answered(plane: Plane, frames: list[bytes]) -> None:
    plane.tell(*frames)
    assert plane.control.bad == 1
    # Answers keep their order: this is the first.
    assert plane.ask(request("ping")).result == ["ping", {}]


def test_an_oversize_message_costs_its_sender_the_connection(plane: Plane) -> None:
    rude = plane.connect()
    rude.send(b"x" * (MESSAGE_BYTES_MAX + 1))
    assert plane.ask(request("ping")).result == ["ping", {}]
    assert plane.control.bad == 0
    rude.close(0)


def test_bytes_that_are_not_zeromq_are_survived(plane: Plane) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.connect(str(plane.run_dir / CONTROL_SOCKET))
        raw.send(b"GET / HTTP/1.0\r\n\r\n" * 50)
    assert plane.ask(request("ping")).result == ["ping", {}]


def subscriber(plane: Plane, topic: bytes) -> zmq.Socket[bytes]:
    made = plane.context.socket(zmq.SUB)
    made.linger = 0
    made.subscribe(topic)
    made.connect(f"ipc://{plane.run_dir / STATS_SOCKET}")
    return made


def publish_until(plane: Plane, reader: zmq.Socket[bytes], topic: str = "tick") -> list[bytes]:
    """Publish until the reader has something; what it has."""
    for number in range(WAIT_MS // 50):
        plane.control.publish(topic, b"%d" % number)
        plane.round()
        if reader.poll(0):
            return reader.recv_multipart()
    raise AssertionError("nothing came")


def test_subscribers_with_the_token_get_the_feed_and_nobody_else(plane: Plane) -> None:
    token = plane.token.encode()
    reader, stranger, guesser = (
        subscriber(plane, topic) for topic in (token, b"", token[:-1] + b"x")
    )
    topic, data = publish_until(plane, reader)
    assert (topic, data.isdigit()) == (token + b".tick", True)
    plane.control.publish("why", b"because")
    plane.round()
    assert not stranger.poll(100)
    assert not guesser.poll(0)
    for made in (reader, stranger, guesser):
        made.close(0)


def test_a_subscriber_may_choose_a_topic_and_gets_the_hello_that_was(plane: Plane) -> None:
    token = plane.token.encode()
    plane.control.publish("hello", b"columns")
    whole, picky = subscriber(plane, token), subscriber(plane, token + b".why")
    plane.wait(lambda: whole.poll(0))
    assert whole.recv_multipart() == [token + b".hello", b"columns"]
    assert publish_until(plane, picky, "why")[0] == token + b".why"
    plane.control.publish("tick", b"1")
    plane.control.publish("why", b"last")
    plane.round()
    while (said := picky.recv_multipart())[1] != b"last":
        assert said[0] == token + b".why"
    for made in (whole, picky):
        made.close(0)


def test_a_topic_there_is_not_is_nothing_to_subscribe_to(plane: Plane) -> None:
    token = plane.token.encode()
    greedy = subscriber(plane, token + b".tick")
    for number in range(100):
        greedy.subscribe(token + b".%d" % number)
    publish_until(plane, greedy)
    (line,) = plane.control._stats.lines
    assert line.topics == {token + b".tick"}
    greedy.close(0)


def test_an_answer_too_long_for_any_client_is_refused_and_says_so(plane: Plane) -> None:
    asked = plane.request("why", domain="long")
    said = plane.ask(asked)
    assert "too long" in said.error
    assert said.result is None
