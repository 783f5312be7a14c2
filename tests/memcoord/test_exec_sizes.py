"""Sizes of ``memcoord exec`` that cannot be had are refused before anything starts."""

from __future__ import annotations

import pytest

from hypervisor.public.errors import ConfigError
from memcoord.commands.exec_program import Options, exec_command

DEFAULTS = {"name": "vm1", "ram": "64MiB", "most": None, "run_dir": None, "memory": None}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"ram": "1MiB"}, "--ram"),
        ({"most": "32MiB"}, "--max"),
        ({"memory": "64MiB"}, "--memory"),
        ({"memory": "a lot"}, "--memory"),
        ({"memory": "1GiB", "run_dir": "/nowhere"}, "--memory"),
    ],
)
def test_a_size_that_cannot_be_is_refused_by_name(wrong: dict[str, str], named: str) -> None:
    options = Options(**{**DEFAULTS, "swap_dir": None, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=named):
        exec_command(["true"], options, as_json=False)
