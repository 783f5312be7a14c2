"""Compiled by _build_guest.py; names and types stand in the headers of abi/."""

from typing import Any

ffi: Any
lib: Any
