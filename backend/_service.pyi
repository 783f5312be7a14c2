"""Types of the compiled module ``backend._service`` (made by ``_build_service.py``)."""

from typing import Any

ffi: Any
lib: Any
