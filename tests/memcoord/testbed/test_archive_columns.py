"""Goal: a number is in real units, once, and none is made up. Method: small files, any samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcoord.testbed.archive.columns import (
    BadRunFile,
    in_real_units,
    of_rows,
    rate,
    read_csv,
    read_lines,
    rows_where,
    write_csv,
)
from memcoord.testbed.archive.thinning import last_of_each, thinned

TEXT = """policy,round,tick,time_s,domain,current_frames,tmem_used_pages,tmem_target_pages,\
puts_failed,guest_swap_ins,guest_stall_ns,guest_idle_permille,host_free_frames
greedy,0,3,0.02,vm1,512,256,-1,4,7,1500000000,-1,1024
greedy,0,4,0.04,vm1,512,,1024,5,7,1500000000,250,1024
greedy,0,5,0.0"""


@pytest.fixture
def series(tmp_path: Path) -> Path:
    path = tmp_path / "series.csv"
    path.write_text(TEXT)
    return path


def test_pages_become_bytes_and_what_is_not_known_is_no_number(series: Path) -> None:
    found = in_real_units(read_csv(series))
    assert found["ram_bytes"].tolist() == [2 << 20, 2 << 20]
    assert found["tmem_bytes"][0] == 1 << 20
    assert np.isnan(found["tmem_bytes"][1])
    assert found["tmem_target_bytes"].tolist() == [np.inf, 4 << 20]
    assert found["tmem_puts_refused"].tolist() == [4, 5]
    assert found["stall_s"].tolist() == [1.5, 1.5]
    assert np.isnan(found["idle_share"][0])
    assert found["idle_share"][1] == 0.25
    assert found["disk_reads"].tolist() == found["swap_ins"].tolist() == [7, 7]
    assert found["host_free_bytes"][0] == 4 << 20
    assert found["domain"].tolist() == ["vm1", "vm1"]


def test_a_row_that_was_cut_off_is_left_out(series: Path) -> None:
    assert read_csv(series)["tick"].tolist() == [3, 4]


def test_what_was_written_is_read_back(series: Path, tmp_path: Path) -> None:
    before = read_csv(series)
    write_csv(before, tmp_path / "again.csv")
    after = read_csv(tmp_path / "again.csv")
    assert list(after) == list(before)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRunFile, match=r"none\.csv: No such file"):
        read_csv(tmp_path / "none.csv")
    assert read_lines(tmp_path / "none.jsonl") == []


def test_a_line_that_is_no_json_is_named_unless_it_is_the_last(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"a"')
    assert read_lines(path) == [{"a": 1}]
    path.write_text('{"a"\n{"a": 1}\n')
    with pytest.raises(BadRunFile, match="line 1"):
        read_lines(path)


def test_rows_of_different_keys_are_columns_of_one_length() -> None:
    found = of_rows([{"a": 1, "b": "x"}, {"a": None}], ("c", "a"))
    assert list(found) == ["c", "a", "b"]
    assert {len(values) for values in found.values()} == {2}
    assert found["b"].tolist() == ["x", ""]
    assert np.isnan(found["a"][1])


def test_rows_are_chosen_by_value_and_none_is_any() -> None:
    columns = {"policy": np.array(["a", "b", "a"]), "x": np.arange(3.0)}
    assert rows_where(columns, policy="a")["x"].tolist() == [0, 2]
    assert rows_where(columns, policy=None)["x"].tolist() == [0, 1, 2]
    assert rows_where({}, policy="a") == {}


def test_a_rate_is_the_rise_over_its_window() -> None:
    time_s = np.arange(5.0)
    found = rate(time_s, np.array([0.0, 10, 20, 20, 20]), window_s=2.0)
    assert np.isnan(found[0])
    assert found[1:].tolist() == [10, 10, 5, 0]


counters = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=60)


@given(counters, st.floats(0.01, 10.0))
def test_a_rate_is_never_negative(values: list[int], window_s: float) -> None:
    time_s = np.arange(len(values)) * 0.1
    found = rate(time_s, np.array(values, np.float64), window_s)
    assert (np.nan_to_num(found) >= 0).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000), st.integers(1, 50))
def test_thinning_keeps_ends_and_extremes(values: list[float], slices: int) -> None:
    xs, ys = np.arange(len(values), dtype=np.float64), np.array(values)
    thin_x, thin_y = thinned(xs, ys, slices)
    assert len(thin_x) <= 4 * slices
    assert (thin_x[0], thin_x[-1]) == (xs[0], xs[-1])
    assert (thin_y.min(), thin_y.max()) == (ys.min(), ys.max())
    assert (np.diff(thin_x) > 0).all()
    np.testing.assert_array_equal(ys[thin_x.astype(int)], thin_y)


def test_a_spike_of_one_tick_stays() -> None:
    ys = np.zeros(100_000)
    ys[12_345] = 7.0
    xs, thin = thinned(np.arange(len(ys), dtype=np.float64), ys, 100)
    assert xs[thin == 7.0].tolist() == [12_345]


def test_the_last_value_holds_until_the_next_and_no_longer_than_the_domain() -> None:
    edges = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    found = last_of_each(np.array([0.5, 1.5]), np.array([1.0, 2.0]), edges)
    assert np.isnan(found[[0, 3, 4]]).all()
    assert found[1:3].tolist() == [1.0, 2.0]
