"""Goal: every row of ``tmem-replay`` answers as documented, and no line stops a stream.

Method: whole streams in, whole answers out; the pool's semantics are ``test_tmem_streams``'s.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.public.errors import ConfigError
from memcoord.__main__ import main
from memcoord.commands.tmem_replay import replay_command
from tmem.replay import (
    LINE_BYTES_MAX,
    BadRow,
    Replay,
    ReplayConfig,
    lines_of,
    page_of,
    replay,
)

OID, ONES = [1, 2, 3], 2**64 - 1
EPHEMERAL, PERSISTENT, SHARED = 1 << 24, 1 << 24 | 1, 1 << 24 | 2
SMALL: dict[str, Any] = {"total_pages": 300}


def answers(*rows: Any, config: Any = SMALL) -> list[Any]:
    """What a stream of these values answers, with the pool valid at the end."""
    text = "".join(json.dumps(row) + "\n" for row in (config, *rows))
    return answers_to(text.encode())


def answers_to(data: bytes) -> list[Any]:
    told: list[Any] = []
    done = replay(lines_of(io.BytesIO(data)), told.append)
    if done is not None:
        done.pool.validate()
    return told


def test_a_page_is_its_seed_and_counts_on_from_there() -> None:
    for seed in (0, 1, ONES):
        page = page_of(seed)
        assert (page.dtype, page.shape) == (np.dtype("<u8"), (512,))
        assert int(page[0]) == seed
        assert int(page[511]) == (seed * 0x9E3779B97F4A7C15 + 511) % 2**64


def test_pages_go_and_come_back() -> None:
    assert answers(
        ["new_pool", 3, EPHEMERAL, 0, 0],
        ["new_pool", 3, PERSISTENT, 0, 0],
        ["put", 3, 0, OID, 7, ONES],
        ["put", 3, 1, OID, 7, 5],
        ["put", 3, 1, OID, 7, 6],
        ["get", 3, 0, OID, 7],
        ["get", 3, 0, OID, 7],
        ["get", 3, 1, OID, 7],
        ["get", 3, 1, OID, 8],
        ["flush_page", 3, 1, OID, 7],
        ["flush_object", 3, 1, OID],
        ["get", 3, 1, OID, 7],
        ["destroy_pool", 3, 1],
        ["destroy_pool", 3, 1],
        ["put", 3, 1, OID, 7, 5],
    ) == [
        *([0], [1], [1], [1], [1], [1, ONES], [-1001], [1, 6], [0], [1], [1], [-1001]),
        *([1], [0], [-19]),
    ]


def test_faults_have_their_side_effects() -> None:
    assert answers(
        ["new_pool", 0, EPHEMERAL, 0, 0],
        ["put_fault", 0, 0, OID, 0],
        ["get", 0, 0, OID, 0],
        ["put", 0, 0, OID, 0, 5],
        ["get_fault", 0, 0, OID, 0],
        ["get_fault", 0, 0, OID, 1],
        ["put_fault", 0, 0, OID, 0, 9],
        ["get_fault", 0, 0, OID, 0],
        ["put_fault", 0, 1, OID, 0],
    ) == [[0], [-14], [-1001], [1], [-14], [0], [-14], [-1001], [-19]]


def test_the_reserve_bounds_what_a_host_of_n_pages_holds() -> None:
    puts = [["put", 0, 0, OID, index, index] for index in range(50)]
    told = answers(["new_pool", 0, EPHEMERAL, 0, 0], *puts, ["lru", 0])
    assert told[1:-1] == [[1]] * 50
    assert told[-1] == [[0, 0, OID, index, index] for index in range(5, 50)]
    told = answers(["new_pool", 0, PERSISTENT, 0, 0], *puts)
    assert told[1:] == [[1]] * 45 + [[-12]] * 5


@pytest.mark.parametrize("total", [0, 1, 2, 3])
@pytest.mark.parametrize("reserve", [0, 1, 256])
@pytest.mark.parametrize("flags", [EPHEMERAL, PERSISTENT])
def test_hosts_of_hardly_a_page(total: int, reserve: int, flags: int) -> None:
    room = max(total - max(reserve - 1, 0), 0)
    told = answers(
        ["new_pool", 0, flags, 0, 0],
        *(["put", 0, 0, OID, index, index] for index in range(5)),
        *(["get_fault", 0, 0, OID, index] for index in range(5)),
        config={"total_pages": total, "reserve_pages": reserve},
    )
    refused = flags == PERSISTENT or not room
    assert told[1:6] == ([[1]] * room + [[-12]] * (5 - room) if refused else [[1]] * 5)
    there = range(room) if refused else range(5 - room, 5)
    wanted = [[-14] if index in there else [0] for index in range(5)]
    assert told[6:] == (wanted if room else [[-1001]] * 5)


def test_shared_pools_need_leave() -> None:
    told = answers(
        ["new_pool", 0, SHARED, 7, 8],
        ["auth", 0, 1, 7, 8],
        ["auth", 1, True, 7, 8],
        ["new_pool", 0, SHARED, 7, 8],
        ["new_pool", 1, SHARED, 7, 8],
        ["put", 0, 1, OID, 0, 5],
        ["get", 1, 0, OID, 0],
        ["get", 0, 1, OID, 0],
        ["get", 0, 0, OID, 0],
        ["lru", 0],
        ["auth", 65535, 1, 7, 8],
        ["auth", 1, 0, 7, 8],
        ["auth", 1, 0, 7, 8],
        ["new_pool", 0, SHARED | PERSISTENT, -1, -1],
        ["get_pools", 0],
        ["get_pools", 9],
    )
    assert told == [
        *([0], [1], [1], [1], [0], [1], [1, 5], [1, 5], [-1001], [[0, 1, OID, 0, 5]]),
        *([-12], [1], [1], [-1], [2], [-22]),
    ]


def test_what_the_host_does() -> None:
    assert answers(
        ["set_weight", 65535, 3],
        ["set_weight", 4, 3],
        ["freeze", 4],
        ["thaw", 65535],
        ["set_quota", 4, 1],
        ["new_pool", 4, PERSISTENT, 0, 0],
        ["set_weight", 4, 3],
        ["put", 4, 0, OID, 0, 0],
        ["put", 4, 0, OID, 1, 0],
        ["set_quota", 4, -1],
        ["freeze", 65535],
        ["put", 4, 0, OID, 1, 0],
        ["put", 4, 0, OID, 0, 1],
        ["flush_page", 4, 0, OID, 0],
        ["thaw", 4],
        ["flush_kb", 4, 0],
        ["flush_kb", 65535, 1],
        ["freeable_mb", 0],
        ["relinquish", 0, 0],
        ["relinquish", 0, 1],
        ["host_take", 0, 1000],
        ["put", 4, 0, OID, 0, 1],
        ["host_give", 0, 1000],
        ["put", 4, 0, OID, 0, 1],
        ["kill_client", 4],
        ["kill_client", 4],
        ["get", 4, 0, OID, 0],
    ) == [
        *([-2], [-2], [-1], [0], [0], [0], [0], [1], [-12], [0], [0], [-1000], [1], [-1000]),
        *([0], [-1], [4], [0], [0], [0], [300], [-12], [300], [1], [0], [0], [-19]),
    ]


def test_a_quota_outlives_its_client() -> None:
    rows = [["new_pool", 1, PERSISTENT, 0, 0], ["put", 1, 0, OID, 0, 0]]
    told = answers(["set_quota", 1, 0], *rows, ["kill_client", 1], *rows)
    assert told == [[0], [0], [-12], [0], [0], [-12]]


def test_domains_have_any_number_and_clients_are_few() -> None:
    pools = [["new_pool", 500 * number, EPHEMERAL, 0, 0] for number in range(65)]
    told = answers(
        *pools,
        ["put", 31500, 0, OID, 0, 5],
        ["lru", 0],
        ["kill_client", 0],
        pools[-1],
        ["get", 31500, 0, OID, 0],
    )
    assert told == [[0]] * 64 + [[-12], [1], [[31500, 0, OID, 0, 5]], [0], [0], [1, 5]]


@pytest.mark.parametrize("config", [{}, {"dedup": True}, {"compression": True}])
def test_storage_does_not_show(config: dict[str, Any]) -> None:
    handles = [[0, number % 2, [number % 7, 0, 0], number] for number in range(400)]
    puts = [["put", *handle, number % 5] for number, handle in enumerate(handles)]
    told = answers(
        ["new_pool", 0, EPHEMERAL, 0, 0],
        ["new_pool", 0, PERSISTENT, 0, 0],
        *puts,
        *(["get", *handle] for handle in handles),
        config={"total_pages": 1000} | config,
    )
    assert told[2:] == [[1]] * 400 + [[1, number % 5] for number in range(400)]


WRONG = [
    *(1, "put", None, {}, [], [1], [["put"]], ["nonsense"], ["__init__"], ["answer", 1]),
    *(["new_pool"], ["new_pool", 0, 0, 0, 0, 0], ["lru"], ["put", 0, 0, OID, 0]),
    *(["lru", "0"], ["lru", 0.0], ["lru", True], ["lru", None], ["lru", -1], ["lru", 65536]),
    *(["new_pool", 0, 2**32, 0, 0], ["new_pool", 0, EPHEMERAL, 2**64, 0]),
    *(["new_pool", 32752, EPHEMERAL, 0, 0], ["kill_client", 65535], ["new_pool", 0, -1, 0, 0]),
    *(["get", 0, 0, [1, 2], 0], ["get", 0, 0, 7, 0], ["get", 0, 0, [1, 2, "3"], 0]),
    *(["get", 0, 0, [1, 2, -1], 0], ["get", 0, 0, OID, 2**32], ["get", 0, 0, OID, -1]),
    *(["put", 0, 0, OID, 0, 2**64], ["put", 0, 0, OID, 0, -1], ["get", 0, 2**32, OID, 0]),
    *(["put_fault", 0, 0, OID], ["auth", 0, 2, 0, 0], ["set_quota", 0, -2], {"total_pages": 9}),
]


@pytest.mark.parametrize("wrong", WRONG, ids=json.dumps)
def test_a_line_that_is_no_row_changes_nothing_and_stops_nothing(wrong: Any) -> None:
    begin = [["new_pool", 0, EPHEMERAL, 0, 0], ["put", 0, 0, OID, 0, 5]]
    told = answers(*begin, wrong, ["get_pools", 0], ["lru", 0])
    assert told[2][0] == "error"
    assert len(told[2]) == 2
    assert told[3:] == [[1], [[0, 0, OID, 0, 5]]]


@pytest.mark.parametrize(
    "line",
    [b"[", b"\xff\xfe[]", b"[" * 5000, b"[1e999]", b'["lru",' + b"9" * 5000 + b"]", b'["lru",0] x'],
)
def test_a_line_that_is_no_json_is_told_too(line: bytes) -> None:
    told = answers_to(b'{"total_pages":3}\n' + line + b'\n\n  \n["lru",0]')
    assert [told[0][0], *told[1:]] == ["error", []]


def test_a_long_line_is_read_in_bounded_parts() -> None:
    data = b'["lru",0]' + b" " * (10 * LINE_BYTES_MAX) + b'\n["lru",0]\n'
    assert max(map(len, lines_of(io.BytesIO(data)))) <= LINE_BYTES_MAX + 1
    told = answers_to(b"{}\n" + data)
    assert [told[0][0], *told[1:]] == ["error", []]


@pytest.mark.parametrize(
    "config",
    [
        *([], ["lru", 0], 7, {"pages": 7}, {"total_pages": -1}, {"total_pages": "7"}),
        *({"total_pages": 2**60}, {"reserve_pages": True}, {"dedup": 1}, {"total_pages": None}),
    ],
    ids=json.dumps,
)
def test_a_wrong_configuration_is_told_and_the_defaults_hold(config: Any) -> None:
    told = answers(["host_take", 0, 2**32 - 1], config=config)
    assert told[0][0] == "error"
    assert told[1:] == [[ReplayConfig().total_pages]]


def test_an_empty_stream_answers_nothing() -> None:
    assert answers_to(b"") == answers_to(b"\n\n") == answers_to(b"{}") == []


class Liar:
    """A pool that loses one bit."""

    def open_client(self, client: int) -> int:
        return 0

    def get(self, client: int, slot: int, oid: Any, index: int, page: Any) -> int:
        page[:] = page_of(5)
        page[511] ^= np.uint64(1)
        return 1


def test_a_page_is_compared_to_its_last_bit() -> None:
    damaged = Replay(ReplayConfig(), Liar())
    with pytest.raises(BadRow, match="damaged page"):
        damaged.answer(["get", 0, 0, OID, 0])
    assert damaged.damaged == 1


def test_the_command_reads_a_file_or_stdin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = b'{"total_pages":3}\n["new_pool",0,16777216,0,0]\n["nonsense"]\n["lru",0]\n'
    (tmp_path / "stream").write_bytes(stream)
    said = []
    for arguments in (["tmem-replay", str(tmp_path / "stream")], ["tmem-replay"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream)))
        monkeypatch.setattr(sys, "argv", ["memcoord", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[0].splitlines()[::2] == ["[0]", "[]"]
    with pytest.raises(ConfigError, match="No such file"):
        replay_command(str(tmp_path / "none"))


_NUMBERS = st.one_of(
    st.integers(-2, 4), st.sampled_from([EPHEMERAL, PERSISTENT, SHARED, 65535, 2**32, 2**64])
)
_VALUES = st.recursive(
    st.one_of(_NUMBERS, st.none(), st.booleans(), st.floats(), st.text(max_size=4)),
    lambda values: st.lists(values, max_size=4),
    max_leaves=6,
)
_NAMES = st.sampled_from(["new_pool", "put", "get", "lru", "auth", "flush_kb", "set_quota", "no"])
_ROWS = st.builds(lambda name, fields: [name, *fields], _NAMES, st.lists(_VALUES, max_size=6))


@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(
        st.one_of(st.binary(max_size=40), _ROWS.map(lambda row: json.dumps(row).encode())),
        max_size=12,
    )
)
def test_any_line_gets_one_answer(lines: list[bytes]) -> None:
    lines = [line.replace(b"\n", b"").strip() for line in lines]
    told = answers_to(b"\n".join([b'{"total_pages":5,"reserve_pages":2}', *lines]))
    assert len(told) == len([line for line in lines if line])
    assert all(type(answer) is list and json.loads(json.dumps(answer)) == answer for answer in told)
