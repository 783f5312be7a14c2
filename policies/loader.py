"""From a text to a policy: built in, of another package, or a file of the user's.

Owns: the grammar of a policy's name and the typed parsing of its parameters. Called by the
hypervisor process, the command line and the simulator. Every failure is a ``PolicyError`` that
names the part.

    smart-alloc                        built in, or an entry point of group ``memcoord.policies``
    smart-alloc:P=2,threshold=50       with parameters
    path/to/file.py:Class              any class with ``plan(view)``
    path/to/file.py:Class:floor=128    with parameters

A class with a nested ``Params`` (a ``PolicyParams``) is made from it; one without takes none. A
file may import modules that lie beside it (``policies.neighbours``). A name that is built in means
the built-in policy, even if another package declares it too. A TOML table
``{name = "smart-alloc", P = 2}`` says the same as the text; ``text_of`` turns one into the other.
Nothing is imported before it is asked for by name; of a policy that is built in, no package's
entry points are read.
"""

import inspect
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from policies.base import NEEDS, Policy, PolicyError, PolicyParams, needs_of
from policies.neighbours import shown

ENTRY_POINT_GROUP = "memcoord.policies"
#: Name -> module and class; the class's ``name`` is the same name.
BUILT_IN: dict[str, str] = {
    "greedy": "policies.greedy:Greedy",
    "static-alloc": "policies.static_alloc:StaticAlloc",
    "reconf-static": "policies.reconf_static:ReconfStatic",
    "smart-alloc": "policies.smart_alloc:SmartAlloc",
    "max-min": "policies.max_min:MaxMin",
    "idle-tax": "policies.idle_tax:IdleTax",
    "utility": "policies.utility:Utility",
    "karma": "policies.karma:Karma",
    "ginseng": "policies.ginseng:Ginseng",
    "squeezed": "policies.squeezed:Squeezed",
    "mom": "policies.mom:Mom",
    "proxmox": "policies.proxmox:Proxmox",
    "qmemman": "policies.qmemman:Qmemman",
    "self-balloon": "policies.self_balloon:SelfBalloon",
    "senpai": "policies.senpai:Senpai",
    "far-memory": "policies.far_memory:FarMemory",
    "static-ram": "policies.static_ram:StaticRam",
    "ram-max-min": "policies.ram_max_min:RamMaxMin",
    "fallow": "policies.fallow:Fallow",
}

_FILE = re.compile(r"^(?P<path>.+?\.py)(?::(?P<name>\w*))?(?::(?P<params>.*))?$")
_NAME = re.compile(r"^(?P<name>[\w.-]+)(?::(?P<params>.*))?$")
_FIELD = re.compile(r" - at `\$\.?(\w+)")
_UNKNOWN = re.compile(r"unknown field `(\w+)`")


@dataclass(frozen=True)
class Description:
    """Facts about a policy for a user who has to choose one."""

    source: str  # "built in", or module:Class, or the file
    summary: str  # the first sentence of its module or class
    parameters: dict[str, Any]  # name -> default, or "required"


def available() -> dict[str, str]:
    """Every policy that has a name, sorted, and where it comes from. Imports none of them."""
    from importlib.metadata import entry_points

    found = {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}
    return dict(sorted((found | dict.fromkeys(BUILT_IN, "built in")).items()))


def describe(text: str) -> Description:
    """The policy ``text`` names, as ``load`` reads it, in words; imports it, does not make it."""
    label, kind, _ = _find(text)
    params = _params_of(label, kind)
    fields = () if params is None else msgspec.structs.fields(params)
    return Description(
        source=available().get(label) or text,
        summary=_summary(kind),
        parameters={field.name: _default(field) for field in fields},
    )


def load(
    text: str, params: Mapping[str, Any] | None = None, *, measured: Collection[str] = tuple(NEEDS)
) -> Policy:
    """The policy ``text`` names; ``params`` (from TOML) are overridden by those in ``text``.

    PolicyError when there is none, a parameter is wrong, or it needs a column of ``NEEDS`` that is
    not among the ``measured``: it would never decide anything, without a word.
    """
    label, kind, given = _find(text)
    policy = _make(label, kind, dict(params or {}) | _parse(label, given))
    for need in sorted(needs_of(policy) - {*measured}):
        what = NEEDS.get(need, "unknown")
        raise PolicyError(
            f"{label}: needs {need!r} ({what}), not measured here; 'memcoord sim' measures all"
        )
    return policy


def is_built_in(text: str) -> bool:
    """Whether the text names a policy of ours, whose code needs no watching."""
    match = None if _FILE.match(text) else _NAME.match(text)
    return match is not None and match["name"] in BUILT_IN


def file_in(text: str) -> str:
    """The path of the file in the text of a policy; empty when the text names no file."""
    match = _FILE.match(text)
    return "" if match is None else match["path"]


def text_of(policy: str | Mapping[str, Any]) -> str:
    """The text of a policy given as text or as a TOML table with ``name`` and parameters.

    PolicyError for a table without a name, or with a value that no text can hold.
    """
    if isinstance(policy, str):
        return policy
    name = policy.get("name")
    if not isinstance(name, str) or not name:
        raise PolicyError("a policy's table needs a name, as {name = 'smart-alloc', P = 2}")
    parts = [f"{key}={_value(name, key, policy[key])}" for key in policy if key != "name"]
    if not parts:
        return name
    match = _FILE.match(name) or _NAME.match(name)
    glue = ":" if match is None or match["params"] is None else ","
    return name + glue + ",".join(parts)


def _value(label: str, key: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, int | float | str) or "," in str(value):
        raise PolicyError(f"{label}: {key}: must be a number, a truth value or a plain text")
    return str(value)


def _find(text: str) -> tuple[str, type, str]:
    """What reports call it, its class, and its parameters as text."""
    match = _FILE.match(text)
    if match is not None:
        kind = _from_file(Path(match["path"]), match["name"] or "")
    else:
        match = _NAME.match(text)
        if match is None:
            raise PolicyError(f"{text!r} is no policy: write NAME, NAME:KEY=VALUE or FILE.py:CLASS")
        kind = _from_name(match["name"])
    return match["name"] or text, kind, match["params"] or ""


def _from_name(name: str) -> type:
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return _class(getattr(import_module(module), attribute), BUILT_IN[name])
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        try:
            return _class(point.load(), point.value)
        except PolicyError:
            raise
        except (Exception, SystemExit) as error:  # another package's import may raise anything
            raise PolicyError(f"{name}: cannot import {point.value}: {error}") from error
    raise PolicyError(f"no policy {name!r}; there are {', '.join(available())}, and FILE.py:CLASS")


def _summary(kind: type) -> str:
    """The first line that says something: the module's of a built-in policy, else the class's."""
    module = sys.modules.get(kind.__module__)
    built_in = f"{kind.__module__}:{kind.__name__}" in BUILT_IN.values()
    text = (inspect.getdoc(module) if built_in else kind.__doc__) or ""
    line = text.strip().partition("\n")[0].strip()
    name = re.escape(str(getattr(kind, "name", "")))
    return re.sub(rf"^{name}(\(.*?\))?:\s*", "", line) if name else line


def _params_of(label: str, kind: type) -> type[PolicyParams] | None:
    params = getattr(kind, "Params", None)
    if params is not None and not (isinstance(params, type) and issubclass(params, PolicyParams)):
        raise PolicyError(f"{label}: Params must be a class derived from PolicyParams")
    return params


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.required:
        return "required"
    made = field.default_factory
    return field.default if made is msgspec.NODEFAULT else made()


def _from_file(path: Path, name: str) -> type:
    try:
        found = path.is_file()
    except (OSError, ValueError) as error:  # a name that is too long, or has a null byte
        raise PolicyError(f"{path}: {error}") from None
    if not found:
        raise PolicyError(f"{path}: no such file")
    module = _import_file(path.resolve())
    if not name:
        kinds = {key: value for key, value in vars(module).items() if isinstance(value, type)}
        ours = module.__name__
        own = [k for k, v in kinds.items() if v.__module__ == ours and hasattr(v, "plan")]
        raise PolicyError(f"{path}: name the class, as {path}:{own[0] if own else 'CLASS'}")
    if not hasattr(module, name):
        raise PolicyError(f"{path}: has no {name}")
    return _class(getattr(module, name), f"{path}:{name}")


def _import_file(path: Path) -> ModuleType:
    """Run ``path`` as a module of its own name, anew each time, with the modules beside it; leaves
    no file there."""
    import hashlib

    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    module = ModuleType(f"memcoord_policy_{path.stem}_{digest}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # msgspec looks a class's annotations up there
    try:
        with shown(path.parent):
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
    params = _params_of(label, kind)
    if params is None and values:
        raise PolicyError(f"{label}: {next(iter(values))}: this policy takes no parameters")
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
