"""A keeper with hypervisors of a few lines, for tests: no memory of a host, no kernels.

``keeper_lab.py keep RUN_DIR`` is the keeper, ``keeper_lab.py standby RUN_DIR FD`` its standby. What
a hypervisor does is said by files in RUN_DIR, which tests write: ``layout`` (of the standby),
``orders`` (a word: see ``obey``). A hypervisor appends to a kept file, and writes a line about
itself to ``lives``.
"""

import json
import os
import select
import subprocess
import sys
from pathlib import Path

from hypervisor.keeping.channel import Channel, Fork, Ready, channel_of
from hypervisor.keeping.held import Held
from hypervisor.keeping.keeper import Installation, Keeper
from hypervisor.public.errors import ConfigError, MemcoordError
from hypervisor.run_dir import claim

PAGE = 4096
#: Of file descriptors, where there are few.
LIMIT = 64


def read(path: Path, default: str = "") -> str:
    return path.read_text(encoding="utf-8") if path.exists() else default


def hypervisor(run_dir: Path, channel: Channel) -> int:
    held = Held(channel)
    count_fd = held.take("count")
    if count_fd < 0:
        count_fd = os.memfd_create("count")
        held.keep("count", count_fd)
        held.keep("gone/a", count_fd)
        held.keep("gone/b", count_fd)
        held.keep("goner", count_fd)
        held.drop("gone")
    size = os.fstat(count_fd).st_size
    os.pwrite(count_fd, b"x", size)
    orders = read(run_dir / "orders")
    if orders == "refuse":
        held.failed(ConfigError("books", "of another make"))
        return 2
    if orders == "crash":
        return 70
    if orders == "too much" and not held.begin.restarts:
        for number in range(LIMIT):
            held.keep_below(f"more/{number}", {"a": count_fd, "b": count_fd})
    held.serving()
    left = sorted({*held.take_below("gone"), *(["goner"] if held.take("goner") >= 0 else [])})
    more = held.take_below("more")
    assert all(f"{name[:-1]}b" in more for name in more if name.endswith("a")), "half of a pair"
    life = {"pid": os.getpid(), "begin": held.begin.restarts, "died": held.begin.died}
    with (run_dir / "lives").open("a", encoding="utf-8") as lives:
        lives.write(json.dumps({**life, "count": size, "left": left}) + "\n")
    poller = select.poll()
    poller.register(held.watch_fd, select.POLLIN)
    while not poller.poll(10):
        if read(run_dir / "orders") == "end":
            held.ending()
            return 7
    return 0


def standby(run_dir: Path, keeper: Channel) -> int:
    keeper.send(Ready(os.environ.get("LAYOUT", "1")))
    while (heard := keeper.receive()) is not None:
        message, fds = heard
        assert isinstance(message, Fork)
        between = os.fork()
        if between:
            os.waitpid(between, 0)
            os.close(fds[0])
        elif os.fork():
            os._exit(0)
        else:
            keeper.close()
            return hypervisor(run_dir, channel_of(fds[0]))
    return 0


def keep(run_dir: Path) -> int:
    def start(where: Installation, channel_fd: int, lock_fd: int) -> "subprocess.Popen[bytes]":
        # What would be the folder of an installation is its layout here.
        return subprocess.Popen(
            [where.python, "-P", __file__, "standby", str(run_dir), str(channel_fd)],
            env={**os.environ, "LAYOUT": where.packages},
            pass_fds=(channel_fd, lock_fd),
        )

    installation = Installation(sys.executable, "1")
    try:
        with claim(run_dir) as lock:
            return Keeper(run_dir, start, installation, lock=lock, watch_fd=0).run()
    except MemcoordError as error:
        sys.stderr.write(str(error))
        return 2 if isinstance(error, ConfigError) else 1


if __name__ == "__main__":
    where = Path(sys.argv[2])
    sys.exit(keep(where) if sys.argv[1] == "keep" else standby(where, channel_of(int(sys.argv[3]))))
