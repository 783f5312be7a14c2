"""What policies of RAM share: scale, need, rounding, and fitting targets to the host."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import View
from policies.ram_targets import (
    ROUNDING_FRAMES_MAX,
    SOURCE_HOST_FRAMES,
    free_frames,
    left_for_tmem,
    needed_frames,
    scale_of,
    spare_frames,
    unrounded,
    within,
)


def view_of(
    ram_capacity: int,
    minimum: list[float],
    maximum: list[float],
    target: list[float],
) -> View:
    return View.of(
        capacity=0,
        ram_capacity=ram_capacity,
        ram_minimum=minimum,
        ram_maximum=maximum,
        ram_target=target,
    )


def test_numbers_scale_with_the_host_unless_told() -> None:
    view = View.of(capacity=0, names=[], host_frames=SOURCE_HOST_FRAMES // 256)
    assert scale_of(view, 0) == 1 / 256
    assert scale_of(view, 1) == 1


def test_slack_is_not_spare() -> None:
    view = View.of(
        capacity=0, host_frames=1000, ram_capacity=900, host_free_frames=150, ram_current=[850]
    )
    assert free_frames(view) == 150
    assert spare_frames(view) == 50


def test_memory_that_tmem_pages_have_left_is_free() -> None:
    """The host calls 100 frames free; tmem holds 400 more for the 50 pages it has."""
    view = View.of(
        capacity=800, host_frames=1000, host_free_frames=100, ram_current=[500], used=[50]
    )
    assert free_frames(view) == 450


def test_need_is_what_is_committed_and_can_be_had() -> None:
    view = View.of(
        capacity=0,
        ram_capacity=1000,
        committed=[300, 2.0**53, np.nan, np.inf],
        ram_used=[900] * 4,
        failed_puts=[50] * 4,
    )
    assert needed_frames(view).tolist() == [300, 1000, 950, 1000]


def test_only_what_rounding_down_lost_is_added_again() -> None:
    lost = ROUNDING_FRAMES_MAX
    view = View.of(capacity=0, ram_target=[1024] * 5)
    asked = np.array([1024 + 7, 1024 + lost, 1000, -1, 1024])
    assert unrounded(view, asked).tolist() == [7, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("capacity", "minimum", "maximum", "target", "wanted", "planned"),
    [
        (1000, [100, 100], [500, 500], [300, 300], [50, 600], [100, 500]),
        (700, [0, 0], [900, 900], [300, 300], [300, 600], [300, 400]),  # growth is cut
        (700, [0, 0], [900, 900], [100, 300], [300, 900], [200, 500]),
        (700, [300, 0], [900, 900], [500, 600], [500, 600], [400, 300]),  # held is cut
        (300, [400, 200], [900, 900], [500, 500], [500, 500], [200, 100]),  # minima do not fit
        (0, [0, 0], [900, 900], [0, 0], [500, 500], [0, 0]),
    ],
)
def test_targets_fit(
    capacity: int,
    minimum: list[float],
    maximum: list[float],
    target: list[float],
    wanted: list[float],
    planned: list[float],
) -> None:
    view = view_of(capacity, minimum, maximum, target)
    assert within(view, np.array(wanted, dtype=np.float64)).tolist() == pytest.approx(planned)


frames = st.integers(0, 1 << 53)


@given(
    st.integers(0, 1 << 40),
    st.lists(st.tuples(frames, frames, frames, frames), min_size=1, max_size=8),
)
def test_whatever_is_wanted_fits_in_whole_frames(
    capacity: int, rows: list[tuple[int, int, int, int]]
) -> None:
    minimum, maximum, target, wanted = (
        list(map(float, column)) for column in zip(*rows, strict=True)
    )
    fit = within(view_of(capacity, minimum, maximum, target), np.array(wanted))
    assert (fit >= 0).all()
    assert np.floor(fit).sum() <= capacity
    if sum(minimum) <= capacity:
        assert (fit >= np.array(minimum) * (1 - 1e-12)).all()


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.floats(0, 5000)), min_size=2, max_size=6),
    st.floats(0, 3000),
    st.floats(0, 3000),
)
def test_nobody_is_owed_less_than_no_tmem(
    domains: list[tuple[int, float]], capacity: float, most: float
) -> None:
    """What rounding gives too much is not taken from who has nothing."""
    used, need = (np.array(column, dtype=np.float64) for column in zip(*domains, strict=True))
    view = View.of(capacity=int(capacity), used=used.tolist(), ram_current=[512.0] * len(used))
    assert (left_for_tmem(view, view.ram_current, need, most) >= 0).all()
