"""Goal: who waits for a first start sees how far it is. Method: a stand-in for the compiler."""

from collections.abc import Callable

import pytest

from memcoord.testbed.live import compiling
from tmem import TmemError


def test_each_kernel_is_told_of_and_a_failure_is_left_to_the_hypervisor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def prepare(_: object, tell: Callable[[int, int], None]) -> None:
        for done in range(2):
            tell(done, 23)
        raise TmemError("numba is not installed")

    said: list[str] = []
    monkeypatch.setattr(compiling, "prepare", prepare)
    compiling.compile_first(said.append)
    assert said == [f"compiling kernels, once on this machine: {done} of 23" for done in (0, 1)]
