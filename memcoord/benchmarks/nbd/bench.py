"""``memcoord bench nbd``: a block of tmem over NBD, beside the exports that QEMU and nbdkit have.

Owns: the rows, their order within a round, the targets.
One compiled client asks every server, one request at a time, at random places of a device of
64 MiB; only the server differs. Ours are two devices of one domain of a real hypervisor: all blocks
of the one are in tmem, whose pool the hypervisor serves over the ring; tmem refuses every block
of the other, so that its file has them. Nothing is pinned to a CPU: a guest's QEMU, this server
and the hypervisor find their places as everybody does. Rows ending in ``_rested`` begin after a
pause in which every process sleeps. Before the first round every byte of our devices is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks.harness import BenchPlan, Target, rotated
from memcoord.benchmarks.lab import BenchError
from memcoord.benchmarks.nbd import exports
from memcoord.benchmarks.runner import Rounds, Setting
from memcoord.testbed.runs.control_client import call

GUEST = "memcoord.benchmarks.nbd.guest"
SIZE = 64 << 20
SIZES = {"4k": 4096, "64k": 1 << 16, "1m": 1 << 20}
COUNTS = {"4k": 3000, "64k": 400, "1m": 60}
RESTED_SAMPLES = 300
REST_NS = 1_000_000
FILE_SAMPLES = 500
POOL, FILE = "tmem", "file"
SERVERS = (POOL, *exports.EXPORTS)
DOMAIN_FRAMES = 4 * AREA_FRAMES
PLAN = BenchPlan(
    bench="nbd",
    targets={
        "tmem_read_4k/null_co_read_4k": Target(1.3, 1.0),
        "tmem_read_4k/qemu_ram_read_4k": Target(1.3, 1.0),
        "tmem_read_4k/nbdkit_read_4k": Target(1.3, 1.0),
    },
    also=(
        *(f"tmem_write_4k/{name}_write_4k" for name in exports.EXPORTS),
        *(f"tmem_{what}_{size}/null_co_{what}_{size}" for size in ("64k", "1m")
          for what in ("read", "write")),
        *(f"tmem_{what}_1m/nbdkit_{what}_1m" for what in ("read", "write")),
        "tmem_read_4k_rested/null_co_read_4k_rested",
        "file_read_4k/tmem_read_4k",
        "file_write_4k/tmem_write_4k",
    ),
    notes={
        "tmem_read_4k": "our server, the block is in tmem: a get over the ring",
        "tmem_write_4k": "our server, a put over the ring",
        "file_read_4k": "our server, tmem refused the block: read from the file",
        "file_write_4k": "a put that is refused, and a write to the file",
        "null_co_read_4k": "qemu-storage-daemon, null-co: copies nothing from anywhere",
        "qemu_ram_read_4k": "qemu-storage-daemon, a file in memory",
        "nbdkit_read_4k": "nbdkit memory",
        "tmem_read_4k_rested": f"after {REST_NS // 1000} us in which everything sleeps",
    },
    skippable=tuple(exports.EXPORTS),
)  # fmt: skip

Step = Callable[[], None]


class NbdBench(Rounds):
    """One run of the bench; ``round`` measures every row once more."""

    def __init__(self, setting: Setting) -> None:
        self._lab, self._sheet = setting.lab, setting.sheet
        host = self._lab.host("h0", _config())
        self._domain = self._lab.remote("domain", GUEST)
        self._client = self._lab.remote("client", GUEST)
        self._domain.ask("attach", run_dir=str(host.run_dir), name="disk")
        self._servers = [POOL]
        self._start_ours(host.run_dir)
        for name in exports.EXPORTS:
            if missing := exports.why_missing(name):
                self._sheet.skip(name, OSError(missing))
            else:
                self._start_rival(name)

    def _start_ours(self, run_dir: Path) -> None:
        files = self._lab.scratch("files")
        for name in (POOL, FILE):
            where = self._lab.socket_path(f"{name}.sock")
            made = {"size": SIZE, "file": str(files / name), "path": str(where)}
            direct = self._domain.ask("serve", key="disk", name=name, **made)
            self._client.ask("connect", name=name, path=str(where))
            if name == FILE:
                call(run_dir, "tmem-freeze", domain="disk")
                self._sheet.facts["file_direct"] = direct
            self._client.ask("fill", name=name, size=SIZE, version=1)
            self._client.ask("verify", name=name, size=SIZE, version=1)
        blocks = SIZE // FRAME_BYTES
        for name, held in ((POOL, "tmem_blocks"), (FILE, "file_blocks")):
            counted = self._domain.ask("counted", name=name)
            if counted[held] != blocks:
                raise BenchError(f"{name}: {counted[held]} of {blocks} blocks are there")

    def _start_rival(self, name: str) -> None:
        where, file = self._lab.socket_path(f"{name}.sock"), Path()
        if name == "qemu_ram":
            file = self._lab.enter(exports.memory_file(SIZE))
        self._lab.server(name, exports.EXPORTS[name](where, SIZE, file))
        self._client.ask("connect", name=name, path=str(where))
        self._client.ask("fill", name=name, size=SIZE, version=1)
        self._servers.append(name)

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Measure every row once; the servers take turns row by row, in another order each time."""
        steps: list[Step] = []
        servers = rotated(self._servers, index)
        for size, bytes_ in SIZES.items():
            for what in ("read", "write"):
                steps += [
                    partial(self._row, name, what, size, COUNTS[size], bytes_) for name in servers
                ]
        steps += [
            partial(self._row, name, "read", "4k_rested", RESTED_SAMPLES, FRAME_BYTES, REST_NS)
            for name in servers
        ]
        steps += [
            partial(self._row, FILE, what, "4k", FILE_SAMPLES, FRAME_BYTES)
            for what in ("read", "write")
        ]
        for number, step in enumerate(rotated(steps, index * len(self._servers))):
            step()
            done((number + 1) / len(steps))

    def _row(
        self, name: str, what: str, size: str, count: int, bytes_: int, rest_ns: int = 0
    ) -> None:
        asked = {"name": name, "write": what == "write", "count": count, "bytes_": bytes_}
        more = {"size": SIZE, "seed": 1 + len(self._sheet.rows) + count, "rest_ns": rest_ns}
        samples = self._client.ask("requests", **asked, **more)
        self._sheet.add(f"{name}_{what}_{size}", samples, 1)


def _config() -> HypervisorConfig:
    domain = DomainConfig("disk", *[DOMAIN_FRAMES] * 3, credit_areas=0)
    total = DOMAIN_FRAMES + 2 * SIZE // FRAME_BYTES + 16 * AREA_FRAMES
    return HypervisorConfig(total_frames=total, domains=(domain,))
