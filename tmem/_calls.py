"""Stands in for the compiled module of this name where there is none; its types are these.

Owns: the error of whoever imports it. Python prefers the module that ``_build_calls.py`` makes.
"""

from __future__ import annotations

from typing import Any

ffi: Any
lib: Any

raise ImportError(f"{__name__} is not compiled: run `python -m pip install -e .` in the checkout")
