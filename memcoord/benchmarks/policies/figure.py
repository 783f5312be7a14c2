"""The figure of ``bench policies``: mean against worst slowdown, and who is on the frontier.

Owns: the SVG, written by hand so that nothing needs a plotting library; pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from memcoord.benchmarks.policies.bench import RANKED, SIM, TESTBED
from memcoord.benchmarks.sweep.table import number

Found = Mapping[str, Any]

WIDTH, HEIGHT, MARGIN = 720, 480, 60
LABEL_WIDTH, LABEL_HEIGHT = 90, 13


def points(found: Found) -> dict[str, tuple[float, float]]:
    """Per policy, mean and worst slowdown over all scenarios; simulated, if there are such."""
    means = found["overall"].get(SIM) or found["overall"].get(TESTBED) or {}
    pairs = {p: (number(m[RANKED]), number(m["worst_slowdown"])) for p, m in means.items()}
    return {p: pair for p, pair in pairs.items() if all(map(math.isfinite, pair))}


def frontier(known: Mapping[str, tuple[float, float]]) -> list[str]:
    """Policies that no other beats in both, the least mean slowdown first."""
    return sorted(
        (
            policy
            for policy, (mean, worst) in known.items()
            if not any(
                one <= mean and other <= worst and (one, other) != (mean, worst)
                for one, other in known.values()
            )
        ),
        key=lambda policy: known[policy],
    )


def svg(found: Found) -> str:
    """Mean against worst slowdown, a dot per policy; down and left is better."""
    known = points(found)
    front = frontier(known)
    means, worsts = zip(*known.values(), strict=True) if known else ((1.0,), (1.0,))
    scale_x, scale_y = _scale(means, WIDTH), _scale(worsts, HEIGHT)

    def at(policy: str) -> tuple[float, float]:
        mean, worst = known[policy]
        return scale_x(mean), HEIGHT - scale_y(worst)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">mean slowdown</text>',
        f'<text x="16" y="{HEIGHT / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 16 {HEIGHT / 2:.0f})">slowdown of the worst domain</text>',
    ]
    for value in _ticks(means):
        x = scale_x(value)
        lines.append(f'<path d="M{x:.1f} {MARGIN}V{HEIGHT - MARGIN}" stroke="#ddd"/>')
        lines.append(f'<text x="{x:.1f}" y="{HEIGHT - 40}" text-anchor="middle">{value:.2f}</text>')
    for value in _ticks(worsts):
        y = HEIGHT - scale_y(value)
        lines.append(f'<path d="M{MARGIN} {y:.1f}H{WIDTH - MARGIN}" stroke="#ddd"/>')
        lines.append(f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, front))
    lines.append(f'<polyline points="{path}" fill="none" stroke="#36c" stroke-dasharray="4 3"/>')
    labels: list[tuple[float, float]] = []
    for policy in sorted(known, key=lambda policy: at(policy)[1]):
        x, y = at(policy)
        colour = "#36c" if policy in front else "#999"
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
        near = [at_y for at_x, at_y in labels if abs(at_x - x) < LABEL_WIDTH]
        y = max([y + 4, *(at_y + LABEL_HEIGHT for at_y in near)])  # below those it would cover
        labels.append((x, y))
        lines.append(f'<text x="{x + 7:.1f}" y="{y:.1f}" fill="#333">{escape(policy)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _scale(values: Sequence[float], length: int) -> Callable[[float], float]:
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return lambda value: MARGIN + (value - low) / span * (length - 3 * MARGIN)


def _ticks(values: Sequence[float], count: int = 5) -> list[float]:
    low, high = min(values), max(values)
    if high <= low:
        return [low]
    return [low + (high - low) * step / (count - 1) for step in range(count)]
