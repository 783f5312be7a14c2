"""No check without its fault: the tables together make every check of backend/abi fire."""

from __future__ import annotations

import importlib
from pathlib import Path

from check_lab import Check, Fault, checks_in, outcome_of

LINES_PER_CHECK = 25
HERE = Path(__file__).resolve().parent


def tables() -> list[Fault]:
    """The faults of every test_checks_*.py beside this file."""
    modules = sorted(path.stem for path in HERE.glob("test_checks_*.py"))
    return [
        fault
        for name in modules
        if name != Path(__file__).stem
        for fault in importlib.import_module(name).FAULTS
    ]


def sources(checkout: Path) -> list[Path]:
    """The C files and headers of the host half."""
    return sorted((checkout / "backend" / "abi").glob("*.[ch]"))


def test_there_is_a_check_for_every_few_lines(checkout: Path) -> None:
    checks = sum(len(checks_in(path)) for path in sources(checkout))
    lines = sum(len(path.read_text().splitlines()) for path in sources(checkout))
    assert checks * LINES_PER_CHECK >= lines


def test_every_check_is_seen_to_fire(checkout: Path) -> None:
    seen = {report[:3] for fault in tables() for report in outcome_of(fault).reports}
    checks = [check for path in sources(checkout) for check in checks_in(path)]
    assert len(checks) > 1

    def fires(check: Check) -> bool:
        lines = range(check.first_line, check.last_line + 1)
        return any((check.file, line, check.function) in seen for line in lines)

    assert [check for check in checks if not fires(check)] == []
