"""Goal: the model checker finds faults. Method: take one protection away, and see it fail.

``mutants.toml`` lists the protections.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from model_checks import Mutant, build, copy_sources, mutants, run

#: Of one configuration. A harmless mutant needs fewer: nothing is looked for.
EXECUTIONS_MAX = 30_000
HARMLESS_EXECUTIONS_MAX = 4_000
MUTANTS = mutants()


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_missing_protection_is_found(mutant: Mutant, checkout: Path, tmp_path: Path) -> None:
    sources = copy_sources(checkout, tmp_path)
    mutant.apply(sources)
    bound = HARMLESS_EXECUTIONS_MAX if mutant.harmless else EXECUTIONS_MAX
    found = run(build(sources, mutant.program), mutant.model, bound)[-1]
    assert (found.verdict == "failed") != bool(mutant.harmless)
    assert bool(found.why) == bool(found.steps) == (not mutant.harmless)


def test_a_mutant_of_text_that_is_not_there_is_an_error(checkout: Path, tmp_path: Path) -> None:
    mutant = Mutant("nothing", "ring", "sc", "ring.c", "no such text", "")
    with pytest.raises(AssertionError, match="not 1"):
        mutant.apply(copy_sources(checkout, tmp_path))
