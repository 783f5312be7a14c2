"""Operations on tmem over the control plane: who is meant, what is told, what is refused."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from hypervisor.config import DomainConfig
from hypervisor.domains import DomainEntry, DomainTable
from hypervisor.public.errors import MemcoordError
from hypervisor.public.messages import MESSAGE_BYTES_MAX, OPS, VERSION, Reply, encode
from hypervisor.public.units import DomId
from hypervisor.tmem_control import (
    COMPRESS_PAGES_MAX,
    COMPRESS_STEP_PAGES,
    TMEM_OPS,
    WEIGHT_MAX,
    compress,
    serve,
)

COUNTERS = {f"counter_number_{n}": 2**63 for n in range(24)}


class Fake:
    """A backend's tmem with two clients; the second has two pools."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.raw_pages = 3 * COMPRESS_STEP_PAGES
        self.counted: dict[str, Any] = {
            "used_pages": 7,
            "clients": [{"client": domid, "puts": domid} for domid in (0, 5)],
            "pools": [{"client": 5, "slot": slot, "sharers": [(5, slot)]} for slot in (0, 2)],
        }

    def tmem_statistics(self) -> dict[str, Any]:
        return deepcopy(self.counted)

    def tmem_freeze(self, domid: DomId | None) -> None:
        self.calls.append(("freeze", domid))

    def tmem_thaw(self, domid: DomId | None) -> None:
        self.calls.append(("thaw", domid))

    def tmem_set_weight(self, domid: DomId, weight: int) -> None:
        self.calls.append(("weight", domid, weight))

    def tmem_set_quota(self, domid: DomId, pages: int) -> None:
        self.calls.append(("quota", domid, pages))

    def tmem_authorise(self, domid: DomId, uuid: int, allow: bool) -> None:
        self.calls.append(("authorise", domid, uuid, allow))

    def tmem_freeable_mb(self) -> int:
        return 12

    def tmem_compress(self, pages: int) -> int:
        packed = min(self.raw_pages, pages)
        self.raw_pages -= packed
        self.calls.append(("compress", pages))
        return packed


@pytest.fixture
def domains() -> Iterator[DomainTable]:
    table, (one, other) = DomainTable(), socket.socketpair()
    for domid, name, connection in ((0, "vm1", one), (5, "vm2", other)):
        config = DomainConfig(name, maxmem_frames=512, boot_frames=0, target_frames=512)
        table.add(DomainEntry(DomId(domid), config, 1, "futex", connection))
    yield table
    one.close()
    other.close()


def test_everybody_is_listed_without_pools_and_one_with(domains: DomainTable) -> None:
    everyone = serve(Fake(), domains, "tmem-list", {"domain": ""})
    assert everyone["host"] == {"used_pages": 7}
    shown = [(row["name"], row["client"], row["pool_count"]) for row in everyone["clients"]]
    assert shown == [("vm1", 0, 0), ("vm2", 5, 2)]
    assert "pools" not in everyone
    one = serve(Fake(), domains, "tmem-list", {"domain": "vm2"})
    assert [row["name"] for row in one["clients"]] == ["vm2"]
    assert [pool["slot"] for pool in one["pools"]] == [0, 2]


def test_the_largest_lists_fit_a_message(domains: DomainTable) -> None:
    full = Fake()
    full.counted["clients"] = [{"client": domid, **COUNTERS} for domid in range(64)]
    full.counted["pools"] = [
        {"client": domid, "slot": slot, "sharers": [(domid, slot)], **COUNTERS}
        for domid in range(64)
        for slot in range(16)
    ]
    for name in ("", "vm2"):
        listed = serve(full, domains, "tmem-list", {"domain": name})
        assert len(encode(Reply(VERSION, 1, "", listed))) <= MESSAGE_BYTES_MAX


def test_a_shared_pool_is_listed_with_every_sharer(domains: DomainTable) -> None:
    backend = Fake()
    backend.counted["pools"][0]["sharers"] = [(5, 0), (0, 1), (0, 3)]
    listed = serve(backend, domains, "tmem-list", {"domain": "vm1"})
    assert [pool["slot"] for pool in listed["pools"]] == [0]
    assert listed["clients"][0]["pool_count"] == 1


def test_authorising_takes_a_uuid_as_it_is_written(domains: DomainTable) -> None:
    backend = Fake()
    args = {"domain": "vm1", "uuid": "00000000-0000-0001-0000-000000000002", "allow": False}
    serve(backend, domains, "tmem-shared-auth", args)
    assert backend.calls == [("authorise", 0, 1 << 64 | 2, False)]


def test_freezing_weighing_and_limiting(domains: DomainTable) -> None:
    backend = Fake()
    serve(backend, domains, "tmem-freeze", {"domain": "vm2"})
    serve(backend, domains, "tmem-thaw", {"domain": ""})
    serve(backend, domains, "tmem-weight", {"domain": "vm1", "weight": 3})
    serve(backend, domains, "tmem-quota", {"domain": "vm1", "pages": -5})
    assert backend.calls == [("freeze", 5), ("thaw", None), ("weight", 0, 3), ("quota", 0, -1)]
    assert serve(backend, domains, "tmem-freeable", {}) == {"freeable_mb": 12}


@pytest.mark.parametrize(
    ("op", "args", "names"),
    [
        ("tmem-list", {"domain": "vm9"}, "vm9"),
        ("tmem-freeze", {"domain": "vm9"}, "vm9"),
        ("tmem-weight", {"domain": "", "weight": 1}, "domain"),
        ("tmem-shared-auth", {"domain": "", "uuid": "0" * 32, "allow": True}, "domain"),
        ("tmem-shared-auth", {"domain": "vm1", "uuid": "all", "allow": True}, "uuid"),
        ("tmem-weight", {"domain": "vm1", "weight": -1}, "weight"),
        ("tmem-weight", {"domain": "vm1", "weight": WEIGHT_MAX + 1}, "weight"),
    ],
)
def test_what_is_refused_changes_nothing(
    domains: DomainTable, op: str, args: dict[str, Any], names: str
) -> None:
    backend = Fake()
    with pytest.raises(MemcoordError, match=names):
        serve(backend, domains, op, args)
    assert backend.calls == []


def test_compression_goes_in_small_steps_and_ends() -> None:
    backend = Fake()
    compress(backend)
    assert backend.calls == [("compress", COMPRESS_STEP_PAGES)] * 4
    backend.raw_pages = 2 * COMPRESS_PAGES_MAX
    compress(backend)
    assert backend.raw_pages == COMPRESS_PAGES_MAX


def test_every_operation_has_its_arguments_declared() -> None:
    assert {op for op in OPS if op.startswith("tmem-")} - {"tmem-set"} == TMEM_OPS
