"""Fuzz the readers of the statistics feed: any bytes as a message, then what views make of it.

``python fuzz/fuzz_feed.py [INPUT] [libFuzzer options]``. An input is one message. It is refused as
a ``BadMessage``, or it is one: then it can be sent again, and a run that heard it between proper
ticks can be looked at, drawn and exported.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hypervisor.public", "memcoord.testbed"]):
    from hypervisor.public.feed import Tick, decode, encode
    from hypervisor.public.messages import BadMessage
    from memcoord.testbed.metrics.heard import Heard
    from memcoord.testbed.metrics.values import families
    from memcoord.testbed.watch.frame import frame_of
    from memcoord.testbed.watch.history import History
    from memcoord.testbed.watch.publications import Assembly
    from memcoord.testbed.watch.screen import screen

ROOT = Path(__file__).resolve().parents[1]
SEEDS = sorted((ROOT / "fuzz" / "corpus" / "feed").iterdir())
INPUT_BYTES_MAX = 2048
WIDTH, HEIGHT = 80, 24
#: What a reader heard before and after: a hello and a tick.
PROPER = [decode(path.read_bytes()) for path in SEEDS if path.name in ("hello", "tick")]


def one_input(data: bytes) -> None:
    """Hear one message between others."""
    try:
        message = decode(data)
    except BadMessage:
        return
    (again,) = encode(message)
    assert list(encode(decode(again))) == [again]
    assembly, history, heard = Assembly(), History(), Heard()
    for one in (*PROPER, message, *PROPER):
        if hasattr(one, "host_columns"):
            assembly.schema(one)
        try:
            whole = assembly.add(one) if isinstance(one, Tick) else one
        except BadMessage:
            continue
        if whole is not None:
            history.hear(whole)
            heard.hear(whole)
    assert all(family.metric.name for family in families(heard.look(), 1))
    frame = frame_of(history, 1 << 40, opened="vm1")
    if frame is not None:
        assert all(line.cell_len <= WIDTH for line in screen(frame, WIDTH, HEIGHT))


if __name__ == "__main__":
    seeds = ",".join(map(str, SEEDS))
    defaults = [f"-seed_inputs={seeds}", f"-max_len={INPUT_BYTES_MAX}", "-len_control=0"]
    atheris.Setup([sys.argv[0], *defaults, *sys.argv[1:]], one_input)
    atheris.Fuzz()
