"""Messages: what one side encodes the other decodes; all else is BadMessage and nothing else."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hypervisor.public.messages import (
    MESSAGE_BYTES_MAX,
    OPS,
    VERSION,
    Attached,
    AttachRequest,
    BadMessage,
    Message,
    Refused,
    Reply,
    Request,
    check_args,
    decode,
    encode,
)

WIRE_INTS = st.integers(-(2**63), 2**64 - 1)
TEXTS = st.text(max_size=40)
SCALARS = st.none() | st.booleans() | WIRE_INTS | TEXTS | st.floats(allow_nan=False)
RESULTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
)
ARGS = st.dictionaries(TEXTS, RESULTS, max_size=3)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(AttachRequest, st.just(VERSION), TEXTS, WIRE_INTS, TEXTS),
    st.builds(Attached, st.just(VERSION), WIRE_INTS, TEXTS, WIRE_INTS, WIRE_INTS, WIRE_INTS),
    st.builds(Refused, st.just(VERSION), TEXTS, TEXTS),
    st.builds(Request, st.just(VERSION), WIRE_INTS, TEXTS, ARGS),
    st.builds(Reply, st.just(VERSION), WIRE_INTS, TEXTS, RESULTS),
)
SAMPLES: list[Message] = [
    AttachRequest(VERSION, "vm1", 4096),
    Attached(VERSION, 1, "vm1", 1 << 30, 1 << 20, 2000),
    Refused(VERSION, "full", "no memory"),
    Request(VERSION, 7, "mem-set", {"domain": "vm1", "target_frames": 512}),
    Reply(VERSION, 7, "", {"ok": True}),
]


def wire(message: Message) -> list[Any]:
    raw = msgspec.to_builtins(message)
    assert isinstance(raw, (list, tuple))
    return list(raw)


@given(MESSAGES)
def test_a_message_survives_the_wire(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x91" * 5000)  # nested deeper than any parser's stack
@example(b"\x81\x91\x01\x02")  # a map with a key that cannot be hashed
@example(b"\xd7\xff" + b"\xff" * 8)  # a timestamp out of every range
@example(b"\xdd\xff\xff\xff\xff")  # an array that claims 2^32 - 1 elements
@example(b"\xdb\xff\xff\xff\xff")  # a string that claims as many bytes
@example(b"\xa1\xff")  # not UTF-8
@example(b"\xc1")  # the one byte msgpack never uses
def test_garbage_is_a_bad_message(data: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(data)


@given(MESSAGES, st.data())
def test_damage_is_a_bad_message_or_another_message(message: Message, data: st.DataObject) -> None:
    damaged = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4), label="bytes changed")):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(damaged))
    except BadMessage:
        return
    assert encode(decode(encode(decoded))) == encode(decoded)  # NaN is not equal to itself


@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=6), max_leaves=12))
def test_well_formed_nonsense_is_a_bad_message(value: Any) -> None:
    with pytest.raises(BadMessage):
        decode(msgpack.packb(value))


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_every_truncation_is_refused(message: Message) -> None:
    data = encode(message)
    for length in range(len(data)):
        with pytest.raises(BadMessage):
            decode(data[:length])
    with pytest.raises(BadMessage):
        decode(data + b"\xc0")


def test_size_is_bounded_exactly() -> None:
    empty = len(encode(Refused(VERSION, "", "x" * 60_000))) - 60_000
    longest = "x" * (MESSAGE_BYTES_MAX - empty)
    data = encode(Refused(VERSION, "", longest))
    assert len(data) == MESSAGE_BYTES_MAX
    assert decode(data) == Refused(VERSION, "", longest)
    with pytest.raises(BadMessage, match=str(MESSAGE_BYTES_MAX)):
        decode(encode(Refused(VERSION, "", longest + "x")))


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("version", [0, VERSION + 1, -1, 2**64 - 1])
def test_another_version_is_refused_by_name(message: Message, version: int) -> None:
    raw = wire(message)
    raw[1] = version
    with pytest.raises(BadMessage, match=f"version {version}"):
        decode(msgpack.packb(raw))


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_field_of_a_wrong_type_is_refused(message: Message) -> None:
    names = message.__struct_fields__
    for position, name in enumerate(names, start=1):
        if name == "result":
            continue  # whatever the operation answers
        for wrong in (None, 1.0, 1.5, b"bytes", [1], True, {1: 2}):
            raw = wire(message)
            raw[position] = wrong
            with pytest.raises(BadMessage):
                decode(msgpack.packb(raw))


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_field_too_many_and_one_too_few_are_refused(message: Message) -> None:
    raw = wire(message)
    with pytest.raises(BadMessage):
        decode(msgpack.packb([*raw, 0]))
    optional = {AttachRequest: 3, Attached: 1, Request: 1}.get(type(message), 0)
    shorter = raw[: -1 - optional]
    with pytest.raises(BadMessage):
        decode(msgpack.packb(shorter))


@pytest.mark.parametrize("tag", ["", "Attach", "detach", 1, None, ["attach"]])
def test_an_unknown_tag_is_refused(tag: Any) -> None:
    with pytest.raises(BadMessage):
        decode(msgpack.packb([tag, VERSION, "vm1", 0]))


def test_the_reason_names_the_field() -> None:
    with pytest.raises(BadMessage, match=r"\$\[3\]"):
        decode(msgpack.packb(["attach", VERSION, "vm1", "many"]))


def test_messages_that_differ_only_by_default_mean_the_same() -> None:
    short = msgpack.packb(["attach", VERSION, "vm1", 0])
    assert decode(short) == AttachRequest(VERSION, "vm1", 0, "futex")


ARGUMENTS = {str: "vm1", int: 4, bool: True}


@pytest.mark.parametrize("op", sorted(OPS))
def test_each_operation_takes_exactly_its_arguments(op: str) -> None:
    args = {name: ARGUMENTS[kind] for name, kind in OPS[op].items()}
    assert check_args(Request(VERSION, 1, op, args)) == ""
    assert op in check_args(Request(VERSION, 1, op, args | {"extra": 1}))
    for name in args:
        others = {key: value for key, value in args.items() if key != name}
        assert op in check_args(Request(VERSION, 1, op, others))
        for wrong in (None, 1.0, 1 if OPS[op][name] is bool else True, [], {}, b""):
            assert name in check_args(Request(VERSION, 1, op, args | {name: wrong}))


@pytest.mark.parametrize("op", ["", "PING", "ping ", "mem_set", "__class__"])
def test_an_unknown_operation_is_named(op: str) -> None:
    assert repr(op) in check_args(Request(VERSION, 1, op, {}))


def alike(count: int) -> list[dict[str, Any]]:
    return [
        {"name": f"vm{n}", "free_frames": n, "pools": [{"a": 1}, {"a": n}]} for n in range(count)
    ]


@pytest.mark.parametrize("result", [alike(0), alike(1), alike(3), [{"a": 1}, {"b": 1}], [{}, {}]])
def test_records_with_the_same_fields_travel_as_a_table(result: Any) -> None:
    message = Reply(VERSION, 1, "", {"domains": result})
    data = encode(message)
    assert decode(data) == message
    assert data.count(b"free_frames") == min(len(result), 1) * (
        "name" in result[0] if result else 0
    )


@pytest.mark.parametrize("rows", [[[1]], [[1, 2, 3]], [7], 7])
def test_a_table_that_does_not_fit_its_columns_is_a_bad_message(rows: Any) -> None:
    table = {"\0columns": ["a", "b"], "\0rows": rows}
    with pytest.raises(BadMessage):
        decode(msgpack.packb(["reply", VERSION, 1, "", table]))
