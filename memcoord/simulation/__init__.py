"""Worlds in virtual time: whole hosts without processes, and page streams against caches.

Public here, and imported at their first use, because they load numba:

  simulate     run a scenario under a policy to its end (``memcoord sim`` does)
  World        the same run, tick by tick
  Env          the same run as an environment for a learning agent (``memcoord.simulation.env``)
  SeriesWorld  thousands of domains by their demand, without pages
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {"simulate": "world", "World": "world", "Env": "env", "SeriesWorld": "series_world"}
__all__ = ["Env", "SeriesWorld", "World", "simulate"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
