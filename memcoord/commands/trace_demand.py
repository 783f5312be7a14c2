"""``memcoord trace record-demand -- PROGRAM``: how much memory one's own program wants, over time.

Owns: the verb's options, its file, and what is printed: how bursty the demand is, and what sampling
cost. Called by ``memcoord.commands.trace_verbs``.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hypervisor.public.errors import ConfigError
from memcoord.commands.trace_import import OUT, Told
from memcoord.testbed.traces.demand import Burstiness, burstiness, write_demand
from memcoord.testbed.traces.sampling import Sampled, record

SUFFIX = ".csv.xz"


def record_demand(
    argv: Sequence[str], out: str | None, *, period_us: int, seconds: float, quiet: bool
) -> Told:
    """Run ``argv`` and write its demand: what the verb prints. ConfigError.

    ``quiet``: the program has no input, and its output is thrown away.
    """
    path = Path(out or f"demand_{Path(argv[0]).name}{SUFFIX}")
    if not path.name.endswith(SUFFIX) or path.name == SUFFIX:
        raise ConfigError(OUT, f"{path.name!r}: the name must end with {SUFFIX}")
    if not path.parent.is_dir():
        raise ConfigError(OUT, f"{str(path.parent)!r} is no folder")
    sampled = record(argv, period_us=period_us, seconds=seconds, quiet=quiet)
    try:
        write_demand(path, sampled.trace)
    except OSError as error:
        raise ConfigError(OUT, f"{path}: {error.strerror or error}") from None
    found = burstiness(sampled.trace)
    result = {key: value for key, value in asdict(sampled).items() if key != "trace"}
    result |= {"path": str(path), "rows": len(sampled.trace.t_us), "burstiness": asdict(found)}
    return result, [f"{path}: {_cost(sampled)}", *lines_of(found), *_remarks(argv, sampled)]


def _cost(sampled: Sampled) -> str:
    return (
        f"{sampled.samples:,} samples of {sampled.processes} processes in {sampled.seconds:.1f} s,"
        f" {sampled.us_per_sample:.0f} us each ({sampled.cpu_share:.1%} of a CPU),"
        f" {sampled.late / sampled.samples:.1%} late"
    )


def lines_of(found: Burstiness) -> list[str]:
    """How bursty it is, in words."""
    if not found.bursts:
        return [f"peak {found.peak_mib:g} MiB, no burst: it never grew by 2 MiB without a rest"]
    first = f"peak {found.peak_mib:g} MiB, {found.bursts} bursts of {_p50_max(found.burst_mib)} MiB"
    rates = ", ".join(f"{name} {value:g}" for name, value in found.rate_mib_s.items())
    gaps = f"gaps between bursts: {_p50_max(found.gap_ms)} ms" if found.gap_ms else "one burst only"
    return [first, f"rate of growth, MiB/s: {rates}", gaps]


def _p50_max(values: dict[str, float]) -> str:
    return f"{values['p50']:g} (median) to {values['max']:g}"


def _remarks(argv: Sequence[str], sampled: Sampled) -> list[str]:
    if sampled.is_full:
        return ["ended: there is no room for more rows"]
    if sampled.exit_code is None:
        return ["ended after its time; --seconds N records longer"]
    return [f"{argv[0]} ended with exit code {sampled.exit_code}"] if sampled.exit_code else []
