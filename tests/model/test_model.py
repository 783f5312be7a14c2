"""Goal: no interleaving breaks ring, bells or allocator. Method: the model checker of mcheck.h.

Every configuration is explored completely where all see a store at once (sc). Under x86's store
buffers (tso) and under weaker ones (weak), a configuration gets the executions named here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from model_checks import PROGRAMS, build, copy_sources, in_parallel

#: Of one configuration. The largest has about 142,000 under sc.
SC_EXECUTIONS_MAX = 1_000_000
BUFFERED_EXECUTIONS = {"ring": 200_000, "frames": 30_000, "mapping": 30_000}
CONFIGURATIONS = {"ring": 10, "frames": 36, "mapping": 16}


@pytest.fixture(scope="module")
def programs(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checking programs, around the product's sources as they are."""
    sources = copy_sources(checkout, tmp_path_factory.mktemp("model"))
    return {name: build(sources, name) for name in PROGRAMS}


@pytest.mark.slow
def test_every_sequentially_consistent_execution_is_right(programs: dict[str, Path]) -> None:
    jobs = [(path, "sc", SC_EXECUTIONS_MAX) for path in programs.values()]
    for name, results in zip(programs, in_parallel(jobs), strict=True):
        assert [found for found in results if found.verdict != "complete"] == []
        assert len(results) == CONFIGURATIONS[name]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tso", "weak"])
def test_store_buffers_break_nothing(programs: dict[str, Path], model: str) -> None:
    jobs = [(path, model, BUFFERED_EXECUTIONS[name]) for name, path in programs.items()]
    for name, results in zip(programs, in_parallel(jobs), strict=True):
        assert [found for found in results if found.verdict == "failed"] == []
        assert len(results) == CONFIGURATIONS[name]
        done = {found.executions for found in results if found.verdict == "bounded"}
        assert done <= {BUFFERED_EXECUTIONS[name]}
