"""What a simulated machine costs in virtual time: its processors, its disk, a fault, a page moved.

Owns: ``Costs``, and where one comes from. A *cost set* is a TOML file: one that is shipped in
``cost_sets/``, or a user's, such as ``memcoord calibrate`` writes. Its keys are those of ``Costs``
with ``_us`` for ``_ns``. A list of ``disk_read_us`` or ``disk_write_us`` is a distribution whose
values are equally likely. A scenario names its set (``cost_set``), else it is DEFAULT: two
processors and one disk, as measured on the machine that the published tables are from, so that the
same command gives the same result everywhere. Its ``[disk]`` and ``[costs]`` tables override the
set. What a user's set omits is as in ``Costs``. Pure, but for reading the file.
"""

from pathlib import Path
from typing import Any

import msgspec

from hypervisor.public.documents import decode_toml
from hypervisor.public.errors import ConfigError

NS_PER_US = 1000
#: Values a distribution is kept as: quantiles of as many equal parts.
QUANTILES = 16
CPUS_MAX = 64
DISK_DEPTH_MAX = 64
SHIPPED = Path(__file__).parent / "cost_sets"
SUFFIX = ".toml"
DEFAULT = "testbed"
DISTRIBUTIONS = ("disk_read_us", "disk_write_us")


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nanoseconds on top of the ``compute_ns`` of a stream, which every reference takes."""

    hit_ns: int = 0  # of a reference to a page in RAM
    fault_ns: int = 1_000  # of every fault, wherever its page comes from
    first_touch_ns: int = 0  # of the first reference to a page
    call_ns: int = 0  # of every batch of requests to tmem
    switch_ns: int = 0  # more of it where the service finds no processor free: it takes the guest's
    tmem_get_ns: int = 1_000  # of a page that comes from tmem
    tmem_put_ns: int = 1_000  # of a page that goes there
    tmem_refused_ns: int = 0  # of a put that tmem refuses, and of a get it cannot serve
    tmem_shared: bool = False  # one service carries out the requests of all, one after the other
    disk_read_ns: int = 100_000  # of one page; the mean, where a distribution is given
    disk_write_ns: int = 50_000  # the same of writing
    disk_read_page_ns: int = 0  # of each further page in the same transfer
    disk_write_page_ns: int = 0  # the same of writing
    disk_shared: bool = False  # all domains use one disk and wait for each other
    disk_depth: int = 1  # transfers that a shared disk serves at once
    cpus: int = 0  # that domains share; 0: each has one of its own
    quantum_ns: int = 1_000_000  # a domain runs so long before the next gets its processor


class CostSet(msgspec.Struct, frozen=True):
    """Costs, and the distributions of the disk: QUANTILES values each."""

    costs: Costs = Costs()
    reads_ns: tuple[int, ...] = (Costs().disk_read_ns,) * QUANTILES
    writes_ns: tuple[int, ...] = (Costs().disk_write_ns,) * QUANTILES


def constant(costs: Costs) -> CostSet:
    """A disk whose every transfer takes its mean."""
    return CostSet(costs, (costs.disk_read_ns,) * QUANTILES, (costs.disk_write_ns,) * QUANTILES)


def shipped() -> list[str]:
    """The names of the cost sets that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob(f"*{SUFFIX}"))


def named(name: str) -> str:
    """A set's name as a scenario can have it wherever it is run; ConfigError when there is none."""
    _read(name)
    return name if name in shipped() else str(Path(name).resolve())


def costs_of(scenario: Any) -> CostSet:
    """The costs of a scenario: its ``[disk]`` and ``[costs]`` (in us) over its set. ConfigError
    when the set is none, or wrong."""
    name = getattr(scenario, "cost_set", "") or DEFAULT
    found = _read(name)
    for table, prefix in (("disk", "disk_"), ("costs", "")):
        for key, value in _items(getattr(scenario, table, None)):
            if value is not None:
                found[f"{prefix}{key}"] = value
    return _made(found, name)


def _read(name: str) -> dict[str, Any]:
    path = SHIPPED / f"{name}{SUFFIX}" if name in shipped() else Path(name)
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        have = ", ".join(shipped())
        why = f"{name}: {error.strerror}; a file, or one of {have}"
        raise ConfigError("costs", why) from None
    found = decode_toml(content, str(path))
    found.pop("description", None)
    return found


def _made(found: dict[str, Any], name: str) -> CostSet:
    """Costs of the keys of a set; ConfigError names the one that is wrong."""
    plain: dict[str, Any] = {}
    lists: dict[str, tuple[int, ...]] = {}
    for key, value in found.items():
        if key in DISTRIBUTIONS and isinstance(value, list):
            lists[key] = quantiles([_ns(f"{key}[]", one) for one in value], key)
            plain[f"{key.removesuffix('_us')}_ns"] = round(sum(lists[key]) / QUANTILES)
        elif key.endswith("_us"):
            plain[f"{key.removesuffix('_us')}_ns"] = _ns(key, value)
        else:
            plain[key] = value
    try:
        costs = msgspec.convert(plain, Costs)
    except msgspec.ValidationError as error:
        raise ConfigError("costs", f"{name or 'the scenario'}: {error}") from None
    if not 0 <= costs.cpus <= CPUS_MAX:
        raise ConfigError("costs.cpus", f"{costs.cpus}: 0 to {CPUS_MAX}")
    if not 1 <= costs.disk_depth <= DISK_DEPTH_MAX:
        raise ConfigError("costs.disk_depth", f"{costs.disk_depth}: 1 to {DISK_DEPTH_MAX}")
    if costs.quantum_ns < 1:
        raise ConfigError("costs.quantum_us", "must be above 0")
    same = constant(costs)
    reads = lists.get("disk_read_us", same.reads_ns)
    return CostSet(costs, reads, lists.get("disk_write_us", same.writes_ns))


def _ns(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
        raise ConfigError(f"costs.{key}", f"{value!r}: microseconds, 0 to 1e9")
    return round(value * NS_PER_US)


def quantiles(values: list[int], key: str) -> tuple[int, ...]:
    """QUANTILES values that are as likely as each other and spread as ``values`` are.

    Each is the mean of its part of the values in order, so that the mean stays what it is.
    ConfigError when there are none.
    """
    if not values:
        raise ConfigError(f"costs.{key}", "a distribution has values")
    ordered = sorted(values) * QUANTILES if len(values) % QUANTILES else sorted(values)
    ordered.sort()
    part = len(ordered) // QUANTILES
    return tuple(round(sum(ordered[at * part : (at + 1) * part]) / part) for at in range(QUANTILES))


def _items(table: Any) -> list[tuple[str, Any]]:
    plain = {} if table is None else msgspec.to_builtins(table)
    return list(plain.items())
