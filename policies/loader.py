"""From a text to a policy: built in, of another package, or a file of the user's.

Owns: the grammar of a policy's name and the typed parsing of its parameters. Called by the
hypervisor process, the command line and the simulator. Every failure is a ``PolicyError`` that
names the part.

    smart-alloc                        built in, or an entry point of group ``memcoord.policies``
    smart-alloc:P=2,threshold=50       with parameters
    path/to/file.py:Class              any class with ``plan(view)``
    path/to/file.py:Class:floor=128    with parameters

A class with a nested ``Params`` (a ``PolicyParams``) is made from it; one without takes none. A
name that is built in means the built-in policy, whatever other packages declare.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from policies.base import Policy, PolicyError, PolicyParams
from policies.greedy import Greedy
from policies.smart_alloc import SmartAlloc
from policies.static_alloc import StaticAlloc

ENTRY_POINT_GROUP = "memcoord.policies"
BUILT_IN: dict[str, type] = {kind.name: kind for kind in (Greedy, StaticAlloc, SmartAlloc)}

_FILE = re.compile(r"^(?P<path>.+\.py)(?::(?P<name>\w*))?(?::(?P<params>.*))?$")
_NAME = re.compile(r"^(?P<name>[\w.-]+)(?::(?P<params>.*))?$")
_FIELD = re.compile(r" - at `\$\.?(\w+)")
_UNKNOWN = re.compile(r"unknown field `(\w+)`")


def available() -> dict[str, str]:
    """Every policy that has a name, sorted, and where it comes from. Imports none of them."""
    found = {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}
    return dict(sorted((found | dict.fromkeys(BUILT_IN, "built in")).items()))


def load(text: str, params: Mapping[str, Any] | None = None) -> Policy:
    """The policy ``text`` names; ``params`` (from TOML) are overridden by those in ``text``."""
    match = _FILE.match(text)
    if match is not None:
        kind = _from_file(Path(match["path"]), match["name"] or "")
    else:
        match = _NAME.match(text)
        if match is None:
            raise PolicyError(f"{text!r} is no policy: write NAME, NAME:KEY=VALUE or FILE.py:CLASS")
        kind = _from_name(match["name"])
    label = match["name"] or text
    return _make(label, kind, dict(params or {}) | _parse(label, match["params"] or ""))


def _from_name(name: str) -> type:
    if name in BUILT_IN:
        return BUILT_IN[name]
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        try:
            return _class(point.load(), point.value)
        except PolicyError:
            raise
        except (Exception, SystemExit) as error:  # another package's import may raise anything
            raise PolicyError(f"{name}: cannot import {point.value}: {error}") from error
    raise PolicyError(f"no policy {name!r}; there are {', '.join(available())}, and FILE.py:CLASS")


def _from_file(path: Path, name: str) -> type:
    if not path.is_file():
        raise PolicyError(f"{path}: no such file")
    module = _import_file(path.resolve())
    if not name:
        own = [
            key
            for key, value in vars(module).items()
            if isinstance(value, type) and hasattr(value, "plan") and _is_of(value, module)
        ]
        raise PolicyError(f"{path}: name the class, as {path}:{own[0] if own else 'CLASS'}")
    if not hasattr(module, name):
        raise PolicyError(f"{path}: has no {name}")
    return _class(getattr(module, name), f"{path}:{name}")


def _is_of(value: type, module: ModuleType) -> bool:
    return value.__module__ == module.__name__


def _import_file(path: Path) -> ModuleType:
    """Run ``path`` as a module of its own name, anew each time; leaves no file beside it."""
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    module = ModuleType(f"memcoord_policy_{path.stem}_{digest}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # msgspec looks a class's annotations up there
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        del sys.modules[module.__name__]
        line = error.lineno if isinstance(error, SyntaxError) else None
        where = "" if line is None else f"line {line}: "
        raise PolicyError(f"{path}: {where}{type(error).__name__}: {error}") from error
    return module


def _class(value: object, where: str) -> type:
    if not isinstance(value, type) or not callable(getattr(value, "plan", None)):
        raise PolicyError(f"{where}: is no class with plan(view)")
    return value


def _parse(label: str, text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key:
            raise PolicyError(f"{label}: {part!r} is no parameter: write KEY=VALUE")
        if key in values:
            raise PolicyError(f"{label}: {key}: given twice")
        values[key] = value.strip()
    return values


def _make(label: str, kind: type, values: dict[str, Any]) -> Policy:
    params = getattr(kind, "Params", None)
    if params is None and values:
        raise PolicyError(f"{label}: {next(iter(values))}: this policy takes no parameters")
    if params is not None and not (isinstance(params, type) and issubclass(params, PolicyParams)):
        raise PolicyError(f"{label}: Params must be a class derived from PolicyParams")
    arguments = () if params is None else (_convert(label, params, values),)
    try:
        policy: Policy = kind(*arguments)
    except (Exception, SystemExit) as error:  # the author's __init__ may raise anything
        raise PolicyError(f"{label}: {type(error).__name__}: {error}") from error
    return policy


def _convert(label: str, params: type[PolicyParams], values: dict[str, Any]) -> PolicyParams:
    try:
        return msgspec.convert(values, params, strict=False)
    except msgspec.ValidationError as error:
        text = str(error)
    unknown = _UNKNOWN.search(text)
    if unknown is not None:
        known = ", ".join(params.__struct_fields__) or "nothing"
        raise PolicyError(f"{label}: {unknown[1]}: no such parameter; it takes {known}")
    field = _FIELD.search(text)
    key = field[1] if field is not None else "params"
    reason = _FIELD.sub("", text).replace("`", "")
    raise PolicyError(f"{label}: {key}: {reason}, got {values.get(key)!r}")
