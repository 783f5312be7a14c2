"""``memcoord tmem-replay``: replay a stream of tmem operations from a file or standard input."""

import contextlib
import json
import sys
from pathlib import Path
from typing import BinaryIO

from hypervisor.public.errors import ConfigError
from tmem.replay import Row, lines_of, replay


def replay_command(path: str | None) -> int:
    """Replay a file, or stdin; the exit code: 0, 1 when a page came back damaged.

    ConfigError when the file cannot be read.
    """
    with contextlib.ExitStack() as stack:
        stream: BinaryIO = sys.stdin.buffer
        if path is not None and path != "-":
            try:
                stream = stack.enter_context(Path(path).open("rb"))
            except OSError as error:
                raise ConfigError("FILE", f"{path}: {error.strerror}") from None

        def tell(answer: Row) -> None:
            sys.stdout.write(json.dumps(answer, separators=(",", ":")) + "\n")
            sys.stdout.flush()

        done = replay(lines_of(stream), tell)
    return int(done is not None and done.damaged > 0)
