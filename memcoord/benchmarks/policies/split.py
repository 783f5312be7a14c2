"""Which scenarios the policies of this project were tuned on, and which not. Pure but for names.

Owns: the split. A scenario of the folder ``unseen`` was made before the policy it judges was
written, and no figure of it was looked at while ``fallow`` was tuned: who changes that policy
chooses by TUNED_ON alone and runs the others once, at the end. Scenarios of a user are neither.
"""

from __future__ import annotations

from collections.abc import Iterable

TUNED, UNSEEN, OTHER = "tuned on", "not tuned on", "other"
FOLDER = "unseen"
TUNED_ON = (
    "ample", "analytics", "bursts", "churn", "graph", "liar", "loop", "main", "mechanisms",
    "mixed", "quiet", "scarce", "usemem",
)  # fmt: skip


def split_of(scenario: str) -> str:
    """Which part of the split a scenario is in."""
    if scenario in TUNED_ON:
        return TUNED
    return UNSEEN if scenario.startswith(f"{FOLDER}/") else OTHER


def by_split(scenarios: Iterable[str]) -> dict[str, list[str]]:
    """The scenarios of each part that has any, in its order here."""
    found: dict[str, list[str]] = {TUNED: [], UNSEEN: [], OTHER: []}
    for name in scenarios:
        found[split_of(name)].append(name)
    return {part: names for part, names in found.items() if names}


def default_scenarios() -> tuple[str, ...]:
    """All shipped ones that compare policies."""
    from memcoord.testbed.scenarios.schema import shipped

    return (*shipped(), *shipped(FOLDER))
