"""Policies: how much memory each domain should get, as pure functions on arrays.

A policy is any object with ``plan(view) -> Plan``. Write one with the names exported here, check it
with ``policies.conformance.check_policy``, name it on the command line as ``path.py:Class``.
"""

from policies.base import Pages, Percent, Plan, Policy, PolicyError, PolicyParams, View
from policies.checked import CheckedPlan, PlanError, check_plan
from policies.loader import available, describe, load, text_of
from policies.vectors import Vector

__all__ = [
    "CheckedPlan",
    "Pages",
    "Percent",
    "Plan",
    "PlanError",
    "Policy",
    "PolicyError",
    "PolicyParams",
    "Vector",
    "View",
    "available",
    "check_plan",
    "describe",
    "load",
    "text_of",
]
