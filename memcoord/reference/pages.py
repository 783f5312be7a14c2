"""Which pages the reference has.

Owns: their names, and the page that lists them.
"""

from __future__ import annotations

from collections.abc import Callable

from memcoord.reference import (
    files,
    functions,
    mechanism_list,
    messages,
    metric_names,
    policy_list,
    scenarios,
    units,
    verbs,
)
from memcoord.reference.markdown import page, table

#: File -> what makes it, and what it lists.
PAGES: dict[str, tuple[Callable[[], str], str]] = {
    "verbs.md": (verbs.verb_page, "every verb of the command, with its options"),
    "scenarios.md": (scenarios.scenario_page, "keys of a scenario file"),
    "workloads.md": (scenarios.workload_page, "what a domain can do, with the keys of each kind"),
    "sweeps.md": (scenarios.sweep_page, "keys of a sweep's grid and of a cost set"),
    "policies.md": (policy_list.policy_page, "built-in policies: law, source, parameters"),
    "view.md": (policy_list.view_page, "what a policy is given, and what it answers"),
    "mechanisms.md": (mechanism_list.mechanism_page, "ways to resize a domain, with options"),
    "configuration.md": (scenarios.configuration_page, "keys of `hypervisor.json`"),
    "files.md": (files.file_page, "what a run writes: files, columns, events"),
    "metrics.md": (metric_names.metric_page, "names of what is exported for Prometheus"),
    "control.md": (messages.control_page, "operations and messages of control and attaching"),
    "feed.md": (messages.feed_page, "messages and columns of the statistics feed"),
    "python.md": (functions.function_page, "functions and classes of `import memcoord`"),
    "units.md": (units.unit_page, "units of sizes and of names"),
}
INDEX = "index.md"


def written() -> dict[str, str]:
    """Every page of the reference, by its file."""
    made = {name: make() for name, (make, _) in PAGES.items()}
    rows = [(f"[{_title(text)}]({name})", PAGES[name][1]) for name, text in made.items()]
    index = page(
        "Reference",
        "What there is to be set and to be read. These pages are written from the code by "
        "`python -m memcoord.reference docs/reference`; a test fails when they are not what it "
        "writes.",
        table(("page", "what it lists"), rows),
    )
    return {INDEX: index, **made}


def _title(text: str) -> str:
    return text.splitlines()[0].removeprefix("# ")
