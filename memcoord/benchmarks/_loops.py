"""Stands in for the compiled module of this name where there is none; its types are these.

Owns: the error of whoever imports it. Python prefers the module that ``_build_loops.py`` makes.
"""

from __future__ import annotations

from typing import Any

from hypervisor.public.errors import NotCompiled

ffi: Any
lib: Any

raise NotCompiled(__name__)
