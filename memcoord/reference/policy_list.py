"""The page of policies: parameters of those built in, what a policy sees and what it answers.

Owns: nothing but the page. A policy's law, source and weakness are its module's docstring.
"""

from __future__ import annotations

import inspect
from importlib import import_module

from memcoord.reference.fields import about, columns_of, parameters_of
from memcoord.reference.markdown import code, page, prose, table
from policies.base import NEEDS, Plan, Policy, PolicyParams, View
from policies.loader import BUILT_IN, describe


def policy_page() -> str:
    """Every built-in policy with its parameters."""
    rows = [(f"[`{name}`](#{name})", prose(describe(name).summary)) for name in BUILT_IN]
    return page(
        "Policies",
        "`--policy NAME`, `NAME:KEY=VALUE,...` or `FILE.py:CLASS`; `memcoord policy list` shows "
        "those that other packages bring, too.",
        table(("policy", "what it does"), rows),
        *(part for name in BUILT_IN for part in _policy(name)),
    )


def view_page() -> str:
    """What a policy sees and answers."""
    return page(
        "What a policy sees and answers",
        prose(inspect.getdoc(Policy) or ""),
        "## View",
        about(View),
        table(("column", "what it is"), [(code(name), says) for name, says in columns_of(View)]),
        "Some columns cost time to measure; a policy names those it cannot do without in `needs`.",
        table(("need", "what is measured"), [(code(name), says) for name, says in NEEDS.items()]),
        "## Plan",
        prose(inspect.getdoc(Plan) or ""),
    )


def _policy(name: str) -> list[str | list[str]]:
    module, _, attribute = BUILT_IN[name].partition(":")
    params = getattr(getattr(import_module(module), attribute), "Params", None)
    law = inspect.getdoc(import_module(module)) or ""
    parts: list[str | list[str]] = [f"## {name}", f"```text\n{law}\n```"]
    if params is None or not issubclass(params, PolicyParams):
        return [*parts, "It has no parameters."]
    return [*parts, parameters_of(params)]
