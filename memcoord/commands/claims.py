"""``memcoord claims``: run what the claims need, and print the table of them from that run.

Called by ``memcoord.cli``. The benches run as processes of their own; a claim that fails is a line
of the table and no failure of the command.
"""

from __future__ import annotations

import sys

from memcoord.benchmarks.claims.bench import ClaimsRun
from memcoord.benchmarks.runner import run_bench


def claims_command(which: str | None, quick: bool, as_json: bool, page: str | None) -> int:
    """Run and print; 0. ConfigError for an unknown claim, or a page without the markers."""
    run = ClaimsRun(which, quick)
    expected_s = run.expected_s
    if expected_s > 5:
        sys.stderr.write(f"claims: about {expected_s / 60:.1f} minutes on two quiet cores\n")
    return run_bench(run, as_json, None, page)
