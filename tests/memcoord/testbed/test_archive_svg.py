"""Goal: pictures that are right and can be read. Method: parse what was drawn."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcoord.testbed.archive import svg

TIMES = np.linspace(0.0, 10.0, 50)


def curve(name: str, values: float, **options: bool) -> svg.Curve:
    return svg.Curve(name, TIMES, np.full(50, values), 0, **options)


def texts(drawn: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(drawn).iter("text")]


@given(st.floats(1e-6, 1e12))
def test_ticks_are_few_round_and_from_zero(top: float) -> None:
    found = svg.ticks(top)
    assert found[0] == 0
    assert 2 <= len(found) <= svg.TICKS + 1
    assert found[-1] <= top * (1 + 1e-6)
    step = found[1] / 10 ** np.floor(np.log10(found[1]))
    assert min(abs(step - wanted) for wanted in (1, 2, 2.5, 5, 10)) < 1e-6


def test_ticks_of_nothing() -> None:
    assert svg.ticks(0.0) == svg.ticks(float("nan")) == [0.0]


@given(st.lists(st.floats(0, 300), max_size=12))
def test_names_never_lie_upon_each_other(wanted: list[float]) -> None:
    places = svg.spread(sorted(wanted), 24, 0, 300)
    assert len(places) == len(wanted)
    assert all(b - a >= 24 - 1e-9 for a, b in pairwise(places))
    assert all(at <= 300 for at in places)


def test_every_curve_bears_its_name_and_a_target_is_dashed() -> None:
    lines = [curve("vm1", 3.0), curve("a<b", 4.0), curve("vm1 target", 5.0, is_dashed=True)]
    drawn = svg.curves(lines, end_s=10.0, top=6.0, label="held & wanted")
    assert {"vm1", "a<b", "0 s", "10 s"} <= set(texts(drawn))
    assert "vm1 target" not in texts(drawn)
    assert drawn.count("stroke-dasharray") == 1
    assert ElementTree.fromstring(drawn).get("aria-label") == "held & wanted"


def test_a_higher_value_is_drawn_higher() -> None:
    drawn = [svg.curves([curve("x", v)], end_s=10, top=6, label="") for v in (1.0, 5.0)]
    ways = [re.search(r'class="c"[^>]*d="M\d+ (\d+)', one) for one in drawn]
    low, high = (int(way[1]) for way in ways if way is not None)
    assert high < low


def test_a_level_is_drawn_in_steps_and_a_constant_costs_nothing() -> None:
    drawn = svg.curves([curve("x", 1.0, is_step=True)], end_s=10, top=2, label="")
    way = re.search(r'class="c"[^>]*d="([^"]*)"', drawn)
    assert way is not None
    assert re.fullmatch(r"M\d+ \d+h\d+", way[1])


def test_nothing_to_draw_is_still_a_picture() -> None:
    ElementTree.fromstring(svg.curves([], end_s=0, top=0, label=""))
    ElementTree.fromstring(svg.curves([curve("x", np.nan)], end_s=1, top=1, label=""))
    ElementTree.fromstring(svg.dots([], "x", ""))
    ElementTree.fromstring(svg.spans([], "", lambda ns, _: str(ns)))


def test_a_map_has_a_row_per_domain_and_a_shade_per_share() -> None:
    shares = np.array([np.nan, 0.0, 1.0, 1.0])
    drawn = svg.heat([("vm1", shares), ("vm2", shares)], end_s=4, label="waits")
    assert texts(drawn)[:2] == ["vm1", "vm2"]
    found = ElementTree.fromstring(drawn).iter("path")
    lines = {node.get("stroke"): node.get("d") or "" for node in found}
    assert set(lines) == {svg.SHADES[0], svg.SHADES[-1]}
    assert lines[svg.SHADES[-1]].count("M") == 2  # one line a row, not one a slice


@pytest.mark.parametrize("value", [1.0, 80.0, 5e6])
def test_spans_stand_on_a_logarithmic_axis(value: float) -> None:
    rows = [svg.Span("ours", value, 2 * value, 3 * value, 10 * value, 0, "x0.5", True)]
    rows += [svg.Span("rival", 10 * value, 20 * value, 30 * value, 100 * value, 4)]
    drawn = svg.spans(rows, "latency", lambda ns, _: f"{ns:g} ns")
    first, second = (int(n.get("cx") or 0) for n in ElementTree.fromstring(drawn).iter("circle"))
    powers = sum(text.endswith("ns") for text in texts(drawn)) - len(rows) - 1
    wide = 1760 - 560 - 330
    assert second - first == pytest.approx(wide / powers, abs=2)  # a factor of ten
