"""Configurations that cannot work are refused, with the key and the reason."""

from typing import Any

import pytest

from hypervisor.config import DomainConfig, HypervisorConfig, check
from hypervisor.public.errors import ConfigError
from hypervisor.public.units import AREA_FRAMES

AREA = AREA_FRAMES
TOTAL = 16 * AREA  # 2 areas of slack


def domain(name: str = "vm1", **values: Any) -> DomainConfig:
    plain = {"maxmem_frames": 8 * AREA, "boot_frames": AREA, "target_frames": 2 * AREA}
    return DomainConfig(name=name, **plain | values)


def host(*domains: DomainConfig, **values: Any) -> HypervisorConfig:
    return HypervisorConfig(total_frames=TOTAL, domains=domains, **values)


POSSIBLE = [
    host(),
    host(domain(), domain("vm2")),
    host(domain(ram_min_frames=2 * AREA, ram_max_frames=2 * AREA)),
    host(domain(ram_min_frames=0)),
    host(domain(tmem_min_pages=13 * AREA)),
    host(domain(tmem_min_pages=5, tmem_max_pages=5)),
    host(domain(opt_out=True, tmem_max_pages=13 * AREA)),
    host(domain(tmem_max_pages=99 * AREA)),
]


@pytest.mark.parametrize("config", POSSIBLE)
def test_what_can_work_is_accepted(config: HypervisorConfig) -> None:
    check(config)


IMPOSSIBLE: list[tuple[HypervisorConfig, str, str]] = [
    (host(domain(weight=0)), "domains[0].weight", "above 0"),
    (host(domain(weight=float("nan"))), "domains[0].weight", "above 0"),
    (host(domain(priority=1 << 60)), "domains[0].priority", "must be"),
    (host(domain(target_frames=9 * AREA)), "domains[0].boot_frames", "target <= maxmem"),
    (host(domain(ram_max_frames=9 * AREA)), "domains[0].ram_max_frames", "maxmem_frames, 4096"),
    (host(domain(ram_min_frames=9 * AREA)), "domains[0].ram_min_frames", "above the most, 4096"),
    (host(domain(ram_min_frames=3 * AREA)), "domains[0].target_frames", "1536 to 4096"),
    (host(domain(ram_max_frames=AREA)), "domains[0].target_frames", "512 to 512"),
    (host(domain(tmem_min_pages=-1)), "domains[0].tmem_min_pages", "must be 0 to"),
    (host(domain(tmem_max_pages=-2)), "domains[0].tmem_max_pages", "-1 for no limit"),
    (host(domain(), domain("vm2", tmem_min_pages=5, tmem_max_pages=4)), "domains[1].tmem_max", "5"),
    (host(domain(tmem_min_pages=13 * AREA + 1)), "domains.tmem_min_pages", "6656 pages tmem"),
    (host(domain(tmem_min_pages=11), tmem_max_pages=10), "domains.tmem_min_pages", "the 10 pages"),
    (
        host(domain(opt_out=True, tmem_max_pages=7 * AREA), domain("vm2", tmem_min_pages=7 * AREA)),
        "domains.tmem_min_pages",
        "opted out",
    ),
    (
        host(
            domain(ram_min_frames=8 * AREA, target_frames=8 * AREA),
            domain("vm2", opt_out=True, target_frames=7 * AREA),
        ),
        "domains.ram_min_frames",
        "7680 frames of minima",
    ),
    (host(*[domain(f"vm{n}", boot_frames=2 * AREA) for n in range(8)]), "total_frames", "8192"),
]


@pytest.mark.parametrize(("config", "key", "words"), IMPOSSIBLE)
def test_what_cannot_work_is_refused_with_key_and_reason(
    config: HypervisorConfig, key: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert caught.value.key.startswith(key)
    assert words in str(caught.value)
