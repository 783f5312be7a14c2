"""No check without its fault: the tables together make every check of backend/abi fire."""

from __future__ import annotations

import importlib
from pathlib import Path

from check_lab import Check, Fault, checks_in, outcome_of

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


def test_every_check_is_seen_to_fire(checkout: Path) -> None:
    seen = {report[:3] for fault in tables() for report in outcome_of(fault).reports}
    checks = [
        check
        for path in sorted((checkout / "backend" / "abi").glob("*.[ch]"))
        for check in checks_in(path)
    ]
    assert len(checks) > 1

    def fires(check: Check) -> bool:
        lines = range(check.first_line, check.last_line + 1)
        return any((check.file, line, check.function) in seen for line in lines)

    assert [check for check in checks if not fires(check)] == []
