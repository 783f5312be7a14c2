"""What the tests of commands share: a run that lives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memcoord.testbed.runs import rundir


@pytest.fixture
def live(short_path: Path) -> Iterator[rundir.RunDir]:
    run = rundir.create("main", base=short_path / "runs")
    yield run
    run.finish("finished")
