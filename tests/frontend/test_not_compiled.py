"""Goal: a checkout where nothing is compiled says so, and what to do, in one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TIMEOUT_S = 60


@pytest.mark.parametrize("module", ["frontend.domain", "backend.host"])
def test_what_needs_a_compiled_module_names_it_and_the_command(
    checkout: Path, tmp_path: Path, module: str
) -> None:
    for root in ("backend", "frontend", "hypervisor", "tmem"):
        shutil.copytree(
            checkout / root, tmp_path / root, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    failed = subprocess.run(
        [sys.executable, "-P", "-c", f"import {module}"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    missing = {"frontend.domain": "frontend._guest", "backend.host": "backend._service"}[module]
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == (
        f"hypervisor.public.errors.NotCompiled: {missing} is not compiled: "
        "run `python -m pip install -e .` in the checkout"
    )


def test_a_module_that_is_missing_is_still_an_import_error() -> None:
    from hypervisor.public.errors import MemcoordError, NotCompiled

    assert issubclass(NotCompiled, ImportError)
    assert issubclass(NotCompiled, MemcoordError)
