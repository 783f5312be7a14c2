"""Cleancache: file pages come back or are missed, and never come back old."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

import frontend
from frontend.domain import Domain
from frontend.paging.cleancache import Cleancache, oid_of
from hypervisor.public.errors import ConfigError

OPERATIONS = [*4 * ["put"], *3 * ["get"], "page", "inode"]
BIG_INODE = 5 | 6 << 64 | 7 << 128


@pytest.fixture
def hypervisor(make_hypervisor: Any) -> Any:
    return make_hypervisor()


@pytest.fixture
def domain(hypervisor: Any) -> Any:
    with frontend.attach(hypervisor.path) as attached:
        yield attached


@pytest.fixture
def cache(domain: Domain) -> Cleancache:
    return Cleancache(domain.tmem)


def stamp(domain: Domain, frame: int, number: int) -> int:
    domain.view(frame)[:8] = number.to_bytes(8, "little")
    return frame


def number_in(domain: Domain, frame: int) -> int:
    return int.from_bytes(domain.view(frame)[:8], "little")


def test_inodes_are_zero_extended() -> None:
    assert oid_of(77) == (77, 0, 0)
    assert oid_of(BIG_INODE) == (5, 6, 7)
    for wrong in (-1, 1 << 192):
        with pytest.raises(ValueError, match="inode"):
            oid_of(wrong)


def test_contracts_hold_while_tmem_drops_what_it_likes(
    domain: Domain, hypervisor: Any, cache: Cleancache
) -> None:
    """The disk has the truth. Put, put, get: never old data; a miss stays one until a put."""
    random, frame = Random(9), domain.alloc()
    filesystems = [cache.mount(), cache.mount()]
    disk: dict[tuple[Any, int, int], int] = {}
    missed: set[tuple[Any, int, int]] = set()
    for number in range(3000):
        name = random.choice(filesystems), random.choice((1, 2, BIG_INODE)), random.randrange(6)
        hypervisor.tmem_capacity = random.choice((0, 20, 100, 100))
        if random.random() < 0.05 and hypervisor.pages:
            del hypervisor.pages[random.choice(list(hypervisor.pages))]  # evicted
        match random.choice(OPERATIONS):
            case "put":
                missed.discard(name)
                cache.put(*name, stamp(domain, frame, disk.setdefault(name, number)))
            case "get":
                if cache.get(*name, frame):
                    assert name not in missed
                    assert number_in(domain, frame) == disk[name]
                missed.add(name)  # found or not, it is gone
            case "page":
                cache.invalidate_page(*name)
                disk[name] = number
                missed.add(name)
            case "inode":
                cache.invalidate_inode(*name[:2])
                gone = [other for other in disk if other[:2] == name[:2]]
                disk.update(dict.fromkeys(gone, number))
                missed.update(gone)
    assert min(cache.hits, cache.misses) > 100


def test_neighbours_are_read_ahead(domain: Domain, cache: Cleancache) -> None:
    mounted, frames = cache.mount(), domain.alloc_many(4)
    for index in (2, 3, 5):
        cache.put(mounted, 9, index, stamp(domain, frames[0], index))
    assert cache.get_ahead(mounted, 9, 2, frames) == [True, True, False, True]
    assert [number_in(domain, frames[at]) for at in (0, 1, 3)] == [2, 3, 5]
    assert not cache.get(mounted, 9, 3, frames[0]), "read ahead is taken out as well"
    assert cache.get_ahead(mounted, 9, 0xFFFFFFFF, frames) == [False] * 4
    assert (cache.hits, cache.misses) == (3, 6)


def test_unmount_forgets_one_filesystem(domain: Domain, cache: Cleancache) -> None:
    frame = domain.alloc()
    first, second = cache.mount(), cache.mount()
    for mounted in (first, second):
        cache.put(mounted, 1, 1, frame)
    cache.unmount(first)
    with pytest.raises(ConfigError, match="not mounted"):
        cache.get(first, 1, 1, frame)
    assert cache.get(second, 1, 1, frame)


def test_kinds_of_pools(cache: Cleancache, hypervisor: Any) -> None:
    cache.mount()
    cache.mount(shared_uuid=(3, 4))
    assert hypervisor.asked_flags == [1 << 24, 1 << 24 | 2]


def test_what_cannot_be_cached_is_missed_and_harmless(
    domain: Domain, hypervisor: Any, cache: Cleancache
) -> None:
    frame, mounted = domain.alloc(), cache.mount()
    hypervisor.pools = -12  # no pool for the next
    poolless = cache.mount()
    asked = len(hypervisor.requests)
    for name in ((poolless, 1, 1), (mounted, 1, 1 << 32)):
        cache.put(*name, frame)
        assert not cache.get(*name, frame)
        assert cache.get_ahead(*name, [frame]) == [False]
        cache.invalidate_page(*name)
    cache.invalidate_inode(poolless, 1)
    cache.unmount(poolless)
    assert len(hypervisor.requests) == asked
    with pytest.raises(IndexError):
        cache.put(mounted, 1, -1, frame)
