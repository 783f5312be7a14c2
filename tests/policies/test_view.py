"""The view a policy gets: frozen, complete, checked."""

import numpy as np
import pytest

from policies import PolicyParams, View


def test_a_policy_cannot_write_into_a_view() -> None:
    view = View.of(capacity=10, used=[1, 2])
    with pytest.raises(ValueError, match="read-only"):
        view.used[0] = 3
    with pytest.raises(AttributeError):
        view.capacity = 3  # type: ignore[misc]


def test_columns_left_out_have_their_documented_values() -> None:
    view = View.of(capacity=90, ram_capacity=7, used=[1, 2, 3])
    assert (len(view), view.names) == (3, ("vm1", "vm2", "vm3"))
    assert view.target.tolist() == [30, 30, 30]
    assert view.maximum.tolist() == [90, 90, 90]
    assert view.ram_maximum.tolist() == [7, 7, 7]
    assert view.weight.tolist() == [1, 1, 1]
    assert view.puts.tolist() == [0, 0, 0]
    assert np.isnan(view.idle).all()
    assert view.mrc is None


def test_a_view_may_be_empty() -> None:
    view = View.of(capacity=90)
    assert len(view) == 0
    assert view.used.shape == (0,)


def test_a_column_of_another_length_is_named() -> None:
    with pytest.raises(ValueError, match=r"^failed_puts: \(1,\), 2 domains"):
        View.of(capacity=1, used=[1, 2], failed_puts=[1])


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(ValueError, match="no such column: usage"):
        View.of(capacity=1, usage=[1])


def test_params_are_frozen() -> None:
    class Params(PolicyParams):
        floor: int = 3

    with pytest.raises(AttributeError):
        Params().floor = 4
