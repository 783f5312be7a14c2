"""TOML and JSON that a user wrote, decoded: whatever is wrong with it is a ConfigError.

Owns: the errors of Python's parsers, which know more of them than they document, and what no
setting of any document may be: a number that is not finite or beyond 64 bits, a text that is no
Unicode or has a null byte. Called by whatever reads a configuration, a scenario, a sweep or the
value of ``--set``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from hypervisor.public.errors import ConfigError

#: What msgspec raises for bytes that somebody else sent or wrote; also for text that is no UTF-8,
#: and for values that are nested too deep.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
INT_MIN, INT_MAX = -(1 << 63), (1 << 64) - 1
#: Digits of a number that are read: more than any bound has, fewer than Python refuses.
DIGITS_MAX = 1000
_LONG = re.compile(rf"(\d[\d_]{{{DIGITS_MAX - 1}}})[\d_]+")


class NotToml(ConfigError):
    """A text is no TOML."""


def decode_toml(text: str, key: str) -> dict[str, Any]:
    """The document in ``text``; ConfigError says of ``key`` what is wrong with it.

    A number of more than DIGITS_MAX digits may have lost the rest: it fits nowhere either way.
    """
    import tomllib  # a hypervisor reads none

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NotToml(key, str(error)) from None
    except RecursionError:
        raise ConfigError(key, "brackets are nested too deeply") from None
    except ValueError as error:
        shorter = _LONG.sub(r"\1", text)
        if shorter == text:
            raise ConfigError(key, str(error)) from None
        return decode_toml(shorter, key)


def decode_json(data: bytes, key: str) -> Any:
    """The document in ``data``; errors as ``decode_toml``."""
    try:
        return json.loads(
            data.decode("utf-8-sig"),
            parse_int=lambda digits: int(digits[:DIGITS_MAX]),
            object_pairs_hook=_once,
        )
    except UnicodeDecodeError as error:
        raise ConfigError(key, f"not UTF-8 text at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(key, f"no JSON: {error}") from None
    except RecursionError:
        raise ConfigError(key, "brackets are nested too deeply") from None


def check_values(document: Any, key: str = "") -> None:
    """ConfigError when a value in ``document``, plain values, can be no setting; names its key."""
    for path, value in _values(document, key):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(path, f"{value} is out of range")
        if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
            raise ConfigError(path, "a number is out of range: it does not fit 64 bits")
        if isinstance(value, str):
            _check_text(path, value)


def _check_text(path: str, text: str) -> None:
    if "\0" in text:
        raise ConfigError(path, "a text has a null byte")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(path, f"{text!a} is no Unicode text") from None


def _values(document: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every value in ``document`` that holds no other, and every name in it, with its path."""
    waiting = [(key, document)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            for name, part in value.items():
                yield path or "key", name
                waiting.append((f"{path}.{name}" if path else str(name), part))
        elif isinstance(value, list | tuple):
            waiting += [(f"{path}[{index}]", part) for index, part in enumerate(value)]
        else:
            yield path, value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(twice, "is given twice")
    return table
