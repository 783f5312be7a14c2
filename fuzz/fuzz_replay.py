"""Fuzz ``tmem-replay``: any bytes as a stream, and any rows against the model of the tests.

``python fuzz/fuzz_replay.py [INPUT] [libFuzzer options]``. An input that begins with ``{`` is a
stream as it is: every line that is not blank must be answered, but for the configuration. Any other
is read as rows over a host of few pages: the pool must answer what the model answers. After every
input the pool is valid. Whatever escapes is a finding.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import atheris

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "tmem"))
# The branches of the model are what makes streams interesting: the kernels cannot be seen into.
# They are imported first, because atheris changes whole packages, and numba compiles nothing that
# atheris has changed.
from tmem import Tmem, serve  # noqa: E402, F401

with atheris.instrument_imports(include=["tmem", "xen_model"]):
    from tmem_streams import ALL, UUIDS, VERSION, Mix, beginning
    from xen_model import XenModel

    from tmem import replay as tmem_replay

#: A stream of any bytes may ask for a host; it gets one that is made in no time.
TOTAL_PAGES_MAX = 2048
ROWS_MAX = 200
INPUT_BYTES_MAX = 4096
CLIENTS = (0, 1, 2)

tmem_replay.TOTAL_PAGES_MAX = TOTAL_PAGES_MAX


def one_input(data: bytes) -> None:
    """One input; raises when something is wrong."""
    if data.startswith(b"{"):
        any_bytes(data)
    else:
        any_rows(atheris.FuzzedDataProvider(data))


def any_bytes(data: bytes) -> None:
    """Every line is answered by a JSON array."""
    lines = list(tmem_replay.lines_of(io.BytesIO(data)))
    told: list[Any] = []
    done = tmem_replay.replay(iter(lines), told.append)
    assert done is not None
    done.pool.validate()
    assert len(lines) - 1 <= len(told) <= len(lines)
    assert all(type(answer) is list and json.dumps(answer) for answer in told)


def any_rows(source: atheris.FuzzedDataProvider) -> None:
    """The pool answers as the model does."""
    total, reserve = source.ConsumeIntInRange(0, 12), source.ConsumeIntInRange(0, 3)
    pool = tmem_replay.Replay(tmem_replay.ReplayConfig(total, reserve))
    model = XenModel(total, reserve)
    rows = list(beginning(Mix(clients=CLIENTS[:2])))
    for number in range(ROWS_MAX):
        row = rows[number] if number < len(rows) else next_row(source)
        if row is None:
            break
        answer = pool.answer(row)
        assert answer == model.answer(row), f"row {number} {row}: the pool answers {answer}"
    assert pool.answer(["lru", 0]) == model.answer(["lru", 0])
    pool.pool.validate()


def next_row(source: atheris.FuzzedDataProvider) -> list[Any] | None:
    """A row made of the next bytes; None when they are used up."""
    if not source.remaining_bytes():
        return None
    pick, number = source.PickValueInList, source.ConsumeIntInRange
    client = number(0, 2)
    handle = [client, number(0, 4), [number(0, 2), 0, 0], number(0, 2)]
    everyone = pick([client, ALL])
    rows = [
        ["put", *handle, number(0, 9)],
        ["get", *handle],
        ["put_fault", *handle],
        ["get_fault", *handle],
        ["flush_page", *handle],
        ["flush_object", *handle[:3]],
        ["destroy_pool", *handle[:2]],
        ["new_pool", client, VERSION | number(0, 3), *pick(UUIDS)],
        ["auth", client, number(0, 1), *pick(UUIDS)],
        ["kill_client", client],
        ["get_pools", client],
        ["freeze", everyone],
        ["thaw", everyone],
        ["set_weight", everyone, pick([0, 1, 2, 50])],
        ["set_quota", client, number(-1, 4)],
        ["flush_kb", ALL, number(0, 20)],
        ["freeable_mb", 0],
        ["relinquish", 0, number(0, 1)],
        ["host_take", 0, number(0, 4)],
        ["host_give", 0, number(0, 4)],
        ["lru", 0],
    ]
    return rows[number(0, len(rows) - 1)]


if __name__ == "__main__":
    seeds = ",".join(map(str, sorted((ROOT / "fuzz" / "corpus" / "replay").iterdir())))
    defaults = [f"-seed_inputs={seeds}", f"-max_len={INPUT_BYTES_MAX}", "-len_control=0"]
    atheris.Setup([sys.argv[0], *defaults, *sys.argv[1:]], one_input)
    atheris.Fuzz()
