"""TOML that a user wrote, decoded: whatever is wrong with it is a ConfigError.

Owns: the errors of Python's parser, which knows more of them than it documents: a number of more
digits than Python reads, and brackets nested deeper than it can follow. Called by whatever reads a
scenario, a sweep or the value of ``--set``.
"""

from __future__ import annotations

import tomllib
from typing import Any

from hypervisor.public.errors import ConfigError


def decode(text: str, key: str) -> dict[str, Any]:
    """The document in ``text``; ConfigError says of ``key`` what is wrong with it."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(key, str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(key, refusal(error)) from None


def refusal(error: ValueError | RecursionError) -> str:
    """What the parser means by an ``error`` that is no TOMLDecodeError."""
    if isinstance(error, RecursionError):
        return "brackets are nested too deeply"
    return "a number has too many digits"
