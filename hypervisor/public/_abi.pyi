"""Types of the compiled module ``hypervisor.public._abi`` (made by ``_build_abi.py``)."""

from typing import Any

ffi: Any
lib: Any
