"""Stands in for the compiled module of this name where there is none; its types are these.

Owns: the error of whoever imports it. Python prefers the module that ``_build_table.py`` makes.
"""

from typing import Any

from hypervisor.public.errors import NotCompiled

ffi: Any
lib: Any

raise NotCompiled(__name__)
