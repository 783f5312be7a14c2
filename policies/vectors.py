"""Worked examples a policy brings along: a view and the targets its source gives for it.

Owns: ``Vector``. A policy class lists them as ``vectors: ClassVar[tuple[Vector, ...]]``; the
conformance kit checks them. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from policies.base import Plan, Policy, PolicyParams, View


@dataclass(frozen=True, eq=False)
class Vector:
    """The answer of the policy, made with ``params``, to ``view``; ``None`` is not compared."""

    view: View
    tmem: ArrayLike | None = None
    ram: ArrayLike | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    within: float = 1.0  # pages or frames

    def failure(self, kind: type) -> str:
        """How a policy of class ``kind`` differs; empty when it answers as it should."""
        try:
            params = getattr(kind, "Params", None)
            made = () if params is None else (self._params(params),)
            policy: Policy = kind(*made)
            plan = policy.plan(self.view)
        except Exception as error:  # the author's code may raise anything
            return f"raised {type(error).__name__}: {error}"
        if not isinstance(plan, Plan):
            return f"answered {type(plan).__name__}, not Plan"
        return self._differs("tmem", plan.tmem) or self._differs("ram", plan.ram)

    def _params(self, params: type[PolicyParams]) -> PolicyParams:
        return msgspec.convert(dict(self.params), params)

    def _differs(self, what: str, answer: ArrayLike | None) -> str:
        expected = getattr(self, what)
        if expected is None:
            return ""
        want = np.asarray(expected, dtype=np.float64)
        have = np.asarray(np.nan if answer is None else answer, dtype=np.float64)
        if have.shape == want.shape and (np.abs(have - want) <= self.within).all():
            return ""
        told = f"; params {dict(self.params)}" if self.params else ""
        return f"{what} {have.tolist()} where {want.tolist()} is expected{told}"
