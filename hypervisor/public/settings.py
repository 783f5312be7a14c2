"""Settings that a scenario, a hypervisor's configuration and a backend have in common.

Owns: ``DomainSettings`` and ``HostSettings``, which the structs of all three inherit, and the words
of an error. A bound stands in the type, as ``msgspec.Meta``; its ``description`` is the unit. A new
setting of a domain is one line here. C gets the setting through ``struct mc_domain_spec``
(``backend/abi/domain.c``, filled by ``backend/host.py``), a policy through ``policies.base.View``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, inspect

from hypervisor.public.constants import MechanismId
from hypervisor.public.documents import check_values
from hypervisor.public.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)

#: How a domain may be resized, by ``MechanismId``; docs/mechanisms.md explains each.
MECHANISMS = tuple(mechanism.name.lower().replace("_", "-") for mechanism in MechanismId)
NAME_CHARACTERS_MAX = 32
#: A column of a policy's view is made of floats, which hold integers up to this one exactly.
PRIORITY_MAX = 1 << 53

#: Names become file names, columns and words of log lines, whatever the locale.
Name = Annotated[
    str,
    Meta(
        pattern=rf"^[A-Za-z_][A-Za-z0-9_]{{0,{NAME_CHARACTERS_MAX - 1}}}\Z",
        description=f"must be an ASCII identifier of 1 to {NAME_CHARACTERS_MAX} characters",
    ),
]
Mechanism = Annotated[
    str,
    Meta(
        pattern=rf"^({'|'.join(MECHANISMS)})\Z",
        description=f"must be one of {', '.join(MECHANISMS)}",
    ),
]

#: What msgspec says of a value of the right type that is out of bounds.
_BOUNDS = re.compile(r"Invalid enum value|Expected `\w+` (<|>|matching|of length)")
_FIELD = re.compile(r"field `([^`]+)`")
#: How msgspec begins where a tag is unknown.
_NO_TAG = "Invalid value "


class DomainSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a domain beside its sizes.

    ``credit_areas``: areas of 2 MiB granted ahead of need. ``weight`` is for the policy.
    ``booked_only``: its memory lies elsewhere, as that of a virtual machine in QEMU does. The
    ledger has every frame of it, its file gets no pages. ``failed_puts``: what a policy sees as
    puts that failed; of a guest without tmem, pages that it wrote to its own swap stand in.
    ``priority``: the domain with the higher one gets memory first when minima do not fit or growth
    has to wait. ``opt_out``: the policy neither sees nor changes the domain, and what the domain
    holds is not shared. ``options`` belong to the mechanism.
    """

    credit_areas: Annotated[int, Meta(ge=0, le=64, description="areas")] = 1
    weight: Annotated[float, Meta(gt=0, le=sys.float_info.max)] = 1.0  # for the policy
    priority: Annotated[int, Meta(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0
    opt_out: bool = False
    mechanism: Mechanism = "direct"  # how it is made larger and smaller
    options: Mapping[str, int] = {}  # the mechanism's
    booked_only: bool = False  # its memory is booked here and lies elsewhere
    # What counts as a put that failed: tmem's own word, or a proxy, which ``why`` names.
    failed_puts: Literal["tmem", "swap-outs"] = "tmem"


class HostSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a hypervisor beside its sizes and its domains."""

    # From one tick to the next: the policy decides at each.
    interval_ms: Annotated[int, Meta(ge=10, le=3_600_000, description="milliseconds")] = 1000
    tmem_dedup: bool = False  # pages of the same content of one domain are kept once
    tmem_compression: bool = False  # cold pages are compressed, a few at every tick
    backing: Literal["", "4k", "2m"] = ""  # page size of the host; "": the largest it gives
    huge_dir: str = ""  # a tmpfs mounted huge=always; its files cannot be sealed


def common(settings: msgspec.Struct, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields of ``kind``, one of the structs above, as ``settings`` has them."""
    return {name: getattr(settings, name) for name in kind.__struct_fields__}


def convert(raw: Any, kind: type[T], dec_hook: Any = None) -> T:
    """``raw``, plain values, as ``kind``; ConfigError names the key, the bound and the unit."""
    try:
        settings = msgspec.convert(raw, kind, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        raise _config_error(str(error), kind) from None
    check_values(raw)
    return settings


def check_name(name: str) -> str:
    """Empty when a domain may be called ``name``, else what is wrong with the name."""
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        return f"{name!r} {wanted(inspect.type_info(Name))}"
    return ""


def _config_error(text: str, root: type) -> ConfigError:
    what, _, path = text.partition(" - at `$")
    key = path.rstrip("`").lstrip(".")
    if field := _FIELD.search(what):
        known = _fields_at(root, key)
        key = f"{key}.{field[1]}" if key else field[1]
        if "unknown" in what:
            return ConfigError(key, f"unknown key{_nearest(field[1], known)}")
        return ConfigError(key, f"is missing{_one_of(_tags_at(root, key))}")
    if what.startswith(_NO_TAG):
        return ConfigError(key, f"{what}{_one_of(_tags_at(root, key))}")
    if _BOUNDS.match(what):
        what = wanted(_type_at(root, key)) or what
    return ConfigError(key or root.__name__.lower(), what)


def _type_at(root: type, key: str) -> Any:
    """What msgspec knows of the type at ``key``, a path such as ``domain[1].weight``; or None."""
    found: Any = inspect.type_info(root)
    for step in re.findall(r"[\w-]+", re.sub(r"\[.*?\]", "", key)):
        fields = {
            field.encode_name: field.type for part in _structs(found) for field in part.fields
        }
        found = fields.get(step)
    return found


def _fields_at(root: type, key: str) -> list[str]:
    """The keys that there are at ``key``, of any struct that may stand there."""
    return [field.encode_name for part in _structs(_type_at(root, key)) for field in part.fields]


def _tags_at(root: type, key: str) -> list[str]:
    """The values that ``key`` may have where it tells structs apart, as the kind of a workload."""
    parent, _, name = key.rpartition(".")
    return [str(part.tag) for part in _structs(_type_at(root, parent)) if part.tag_field == name]


def _one_of(values: list[str]) -> str:
    return f": must be one of {', '.join(values)}" if values else ""


def _nearest(word: str, known: list[str]) -> str:
    """A hint at the key that was meant; empty where none is like it."""
    import difflib  # only an error needs it

    found = difflib.get_close_matches(word, known, n=1)
    return f"; is it {found[0]!r}?" if found else ""


def _structs(found: Any) -> list[inspect.StructType]:
    """The structs that may stand where ``found`` does: itself, an item's type, a union's parts."""
    if isinstance(found, inspect.StructType):
        return [found]
    inner = getattr(found, "types", None) or [getattr(found, "item_type", None)]
    return [struct for one in inner if one is not None for struct in _structs(one)]


def wanted(found: Any) -> str:
    """The bounds of a type in words, with its unit; empty when msgspec has better ones."""
    unit = ""
    if isinstance(found, inspect.Metadata):
        unit = (found.extra_json_schema or {}).get("description", "")
        found = found.type
    if isinstance(found, inspect.UnionType):  # a value or nothing
        return next(filter(None, map(wanted, found.types)), "")
    if isinstance(found, inspect.LiteralType):
        return f"must be one of {', '.join(map(repr, found.values))}"
    if isinstance(found, inspect.StrType):
        return str(unit)
    if not isinstance(found, inspect.IntType | inspect.FloatType):
        return ""
    lows = [f"above {found.gt}"] if found.gt is not None else [f"at least {found.ge}"]
    highs = [f"below {found.lt}"] if found.lt is not None else [f"at most {found.le}"]
    words = f"{found.ge} to {found.le}"
    if None in (found.ge, found.le) or found.le == sys.float_info.max:
        words = ", ".join(word for word in lows + highs if "None" not in word and "e+" not in word)
    return f"must be {words} {unit}".rstrip()
