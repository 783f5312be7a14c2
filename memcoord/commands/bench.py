"""``memcoord bench``: choose a bench by its name and run it; fill a page from a saved result.

Owns: the list of benches. The bench of policies is imported when it is asked for, because no other
bench needs a simulator. ``python -m memcoord.commands.bench RESULT.json docs/PAGE.md`` does
what ``--markdown`` does after measuring.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks import runner
from memcoord.benchmarks.bank import bench as bank
from memcoord.benchmarks.bursts import bench as bursts
from memcoord.benchmarks.bursts import views as bursts_views
from memcoord.benchmarks.chaos.bench import ChaosBench, ChaosOptions
from memcoord.benchmarks.grant import bench as grant
from memcoord.benchmarks.grant import views as grant_views
from memcoord.benchmarks.harness import BenchPlan
from memcoord.benchmarks.hostile.bench import CheatsBench
from memcoord.benchmarks.interference import bench as interference
from memcoord.benchmarks.interference import views as interference_views
from memcoord.benchmarks.malloc import bench as malloc
from memcoord.benchmarks.malloc import views as malloc_views
from memcoord.benchmarks.mechanisms import bench as mechanisms
from memcoord.benchmarks.mechanisms import views as mechanism_views
from memcoord.benchmarks.nbd import bench as nbd
from memcoord.benchmarks.paging import bench as paging
from memcoord.benchmarks.programs import bench as programs
from memcoord.benchmarks.programs import catalogue
from memcoord.benchmarks.programs import views as programs_views
from memcoord.benchmarks.ring import bench as ring
from memcoord.benchmarks.runner import Bench, DrawFigure, RoundsBench, StartRounds, Tables
from memcoord.benchmarks.tmem import bench as tmem
from memcoord.benchmarks.unplug.bench import UnplugBench, UnplugOptions

#: By name: the plan, the bench, and its own tables and figure, if it has any.
ROUNDS_BENCHES: dict[str, tuple[BenchPlan, StartRounds, Tables | None, DrawFigure | None]] = {
    "bank": (bank.PLAN, bank.BankBench, None, None),
    "bursts": (bursts.PLAN, bursts.BurstsBench, bursts_views.tables, bursts_views.figure),
    "grant": (grant.PLAN, grant.GrantBench, grant_views.tables, None),
    "guest": (paging.PLAN, paging.PagingBench, None, None),
    "interference": (
        interference.PLAN,
        interference.InterferenceBench,
        interference_views.tables,
        interference_views.figure,
    ),
    "malloc": (malloc.PLAN, malloc.MallocBench, malloc_views.tables, malloc_views.figure),
    "mechanisms": (mechanisms.PLAN, mechanisms.MechanismsBench, mechanism_views.tables, None),
    "nbd": (nbd.PLAN, nbd.NbdBench, None, None),
    "programs": (programs.PLAN, programs.ProgramsBench, programs_views.tables, None),
    "ring": (ring.PLAN, ring.RingBench, None, None),
    "tmem": (tmem.PLAN, tmem.TmemBench, None, None),
}
#: What --quick makes of a bench of rounds: one round of so many seconds.
QUICK_BENCHES: dict[str, tuple[float, StartRounds]] = {
    "bursts": (40.0, partial(bursts.BurstsBench, sizes=bursts.QUICK)),
    "malloc": (5.0, partial(malloc.MallocBench, sizes=malloc.QUICK)),
    "programs": (10.0, partial(programs.ProgramsBench, sizes=catalogue.QUICK)),
}
#: These are not made of rounds, or have a seed for each.
AGREEMENT, CHAOS, CHEATS = "agreement", "chaos", "cheats"
BUILD, POLICIES, SMARTMEM, UNPLUG = "build", "policies", "smartmem", "unplug"
#: The bench of mechanisms on real devices, which an option of that bench asks for.
DEVICES, MECHANISMS = "devices", "mechanisms"
#: Options that others share with the bench of policies.
SHARED = {
    SMARTMEM: frozenset(("quick", "world", "scenarios", "policies", "seeds", "scale", "data")),
    AGREEMENT: frozenset(("quick", "scenarios", "policies", "seeds", "scale", "costs")),
    BUILD: frozenset(("quick", "scale")),
    **dict.fromkeys([*QUICK_BENCHES, UNPLUG], frozenset(("quick",))),
}
#: Options that the bench of policies does not have -> the bench that has.
OWNERS = {"qemu": "mechanisms", "scale": AGREEMENT, "data": SMARTMEM}
OF_CHAOS = frozenset(field.name for field in fields(ChaosOptions))


def bench(
    which: str, as_json: bool, rounds: int | None, out: str | None,
    own: Mapping[str, Any] | None = None,
) -> int:  # fmt: skip
    """Run the bench named ``which`` and print it; the exit code is 0 for a missed target too.

    ``out`` is a new directory for samples and JSON, by default one below the runs' directory.
    ``own``: ``markdown``, a page to fill, and the options that only some benches have, the fields
    of their ``...Options``; empty ones are left out.
    ConfigError for an unknown bench, a bad number of rounds, an unusable directory or page.
    """
    options = dict(own or {})
    page = options.pop("markdown", None)
    return runner.run_bench(bench_of(which, rounds, options), as_json, out, page)


def bench_of(
    which: str, rounds: int | None = None, options: Mapping[str, Any] | None = None
) -> Bench:
    """The bench named ``which``; errors as ``bench``."""
    options = dict(options or {})
    if which == MECHANISMS and options.pop("qemu", False):
        which = DEVICES
    for name in options:
        owner = CHAOS if name in OF_CHAOS else OWNERS.get(name, POLICIES)
        if which != owner and name not in SHARED.get(which, ()):
            raise ConfigError(f"--{name.replace('_', '-')}", f"only for bench {owner}")
    if which == AGREEMENT:
        return _agreement(rounds, dict(options))
    if which == POLICIES:
        from memcoord.benchmarks.policies.bench import PolicyBench, PolicyBenchOptions

        if rounds is not None:
            raise ConfigError("--rounds", f"not for bench {POLICIES}: its rounds are --seeds")
        return PolicyBench(PolicyBenchOptions(**options))
    if which == SMARTMEM:
        from memcoord.benchmarks.smartmem.bench import SmartmemBench, SmartmemOptions

        if rounds is not None:
            raise ConfigError("--rounds", f"not for bench {SMARTMEM}: its rounds are --seeds")
        return SmartmemBench(SmartmemOptions(**options))
    if which == BUILD:
        from memcoord.benchmarks.builds.bench import BuildBench, BuildOptions

        return BuildBench(BuildOptions(rounds, **options))
    if which == DEVICES:
        from memcoord.benchmarks.devices.bench import DevicesBench

        if rounds is not None:
            raise ConfigError("--rounds", "each device is measured once: shapes do not vary")
        return DevicesBench()
    if which == CHAOS:
        return ChaosBench(ChaosOptions(**options))
    if which == CHEATS:
        return CheatsBench()
    if which == UNPLUG:
        return UnplugBench(UnplugOptions(rounds=rounds, **options))
    if which not in ROUNDS_BENCHES:
        known = " or ".join(
            [*ROUNDS_BENCHES, CHEATS, BUILD, UNPLUG, CHAOS, POLICIES, SMARTMEM, AGREEMENT]
        )
        raise ConfigError("bench", f"{which!r} is unknown: choose {known}")
    made_of, start, own_tables, own_figure = ROUNDS_BENCHES[which]
    if options.get("quick"):
        round_s, start = QUICK_BENCHES[which]
        made_of = replace(made_of, rounds=1, round_s=round_s)
    return RoundsBench(made_of, start, own_tables, own_figure, rounds)


def scale_of(text: str) -> float:
    """A part of the full size, as a number or as ``small``; ValueError when it is neither."""
    from memcoord.benchmarks.smartmem.situations import SMALL

    return SMALL if text == "small" else float(text)


def _agreement(rounds: int | None, options: dict[str, Any]) -> Bench:
    """The bench of both worlds; a round of it has a seed of its own."""
    from memcoord.benchmarks.agreement.bench import AgreementBench, AgreementOptions

    if rounds is not None and "seeds" in options:
        raise ConfigError("--rounds", "is the same as --seeds here: each round has its own")
    if rounds is not None:
        options["seeds"] = rounds
    return AgreementBench(AgreementOptions(**options))


def write_page(result_path: Path, page: Path) -> None:
    """Fill ``page`` from the JSON at ``result_path``; ConfigError when the page has no markers."""
    result = msgspec.json.decode(result_path.read_bytes())
    made = bench_of(result["bench"])
    runner.fill_page(made, None, page)
    runner.fill_page(made, result, page)


if __name__ == "__main__":
    write_page(Path(sys.argv[1]), Path(sys.argv[2]))
