"""The fields of a struct of ours as rows: name, type and bounds, default, and what it is for.

Owns: how all of that is read. The type and its bounds are msgspec's. What a field is for says the
comment on its line or above it, else the sentence of the class's docstring that names the field.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
import tokenize
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect as kinds

from hypervisor.public.settings import wanted
from memcoord.reference.markdown import code, prose, table
from memcoord.testbed.scenarios.sizes import Size

HEADS = ("name", "value", "default", "what it is")
REQUIRED = "required"
_SENTENCE = re.compile(r"(?<=[.])\s+(?=[A-Z`\d-])")
_MUST, _WHOLE = "must be", re.compile(r"\b(\d+)\.0\b")
_LEAD = re.compile(r"^``\w+``: ")


class Field(NamedTuple):
    """One field. ``says`` is Markdown."""

    name: str
    kind: str
    default: str
    says: str

    @property
    def row(self) -> tuple[str, str, str, str]:
        """Its cells under HEADS."""
        return code(self.name), self.kind, self.default, self.says


def fields_of(kind: type[msgspec.Struct]) -> list[Field]:
    """Every field of ``kind``, those of its bases too."""
    told = kinds.type_info(kind)
    assert isinstance(told, kinds.StructType), kind
    said = meanings(kind)
    return [
        Field(one.encode_name, _words(one.type), _default(one), said.get(one.name, ""))
        for one in told.fields
    ]


def columns_of(kind: type) -> list[tuple[str, str]]:
    """Name and meaning of every field of any class that annotates them, in order."""
    said = meanings(kind)
    names = [name for base in _bases(kind) for name in inspect.get_annotations(base)]
    return [(name, said.get(name, "")) for name in names]


def described(kind: type[msgspec.Struct]) -> list[str]:
    """What the class is, and the table of its fields."""
    return [about(kind), *table(HEADS, [field.row for field in fields_of(kind)])]


def parameters_of(kind: type[msgspec.Struct]) -> list[str]:
    """The class's whole docstring, and the table of its fields with their comments alone."""
    own = comments(kind)
    rows = [(*field.row[:-1], prose(own.get(field.name, ""))) for field in fields_of(kind)]
    return [prose(kind.__doc__ or ""), *table(HEADS, rows)]


def about(kind: type) -> str:
    """Its docstring, less the sentences that its fields have taken; the first is its own."""
    said = comments(kind)
    names = [
        name for base in _bases(kind) for name in inspect.get_annotations(base) if name not in said
    ]
    first, *more = _sentences(kind)
    left = [one for one in more if not any(f"``{name}``" in one for name in names)]
    return prose(" ".join([first, *left]))


def meanings(kind: type) -> dict[str, str]:
    """Field -> what it is for, as Markdown."""
    found = {}
    for base in _bases(kind):
        own = comments(base)
        for name in inspect.get_annotations(base):
            naming = (one for one in _sentences(base) if f"``{name}``" in one)
            says = own.get(name) or " ".join(_LEAD.sub("", one) for one in naming)
            found[name] = prose(says)
    return found


def comments(kind: type) -> dict[str, str]:
    """Field -> the comment that stands on its line, or on the lines above it."""
    found: dict[str, str] = {}
    for base in _bases(kind):
        source = textwrap.dedent(inspect.getsource(base))
        body = ast.parse(source).body[0]
        assert isinstance(body, ast.ClassDef)
        on_line, alone = comment_lines(source)
        for node in body.body:
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            last = node.end_lineno or node.lineno
            said = [on_line[at] for at in range(node.lineno, last + 1) if at in on_line]
            at = node.lineno - 1
            while at in alone:
                said.insert(0, alone[at])
                at -= 1
            if said:
                found[node.target.id] = " ".join(said)
    return found


def entries_of(module: ModuleType, name: str) -> dict[str, str]:
    """Key -> the comment on its line, of the dictionary that ``module`` calls ``name``."""
    source = inspect.getsource(module)
    on_line, _ = comment_lines(source)
    for node in ast.parse(source).body:
        target = getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and target.id == name and isinstance(value, ast.Dict):
            keys = [key for key in value.keys if isinstance(key, ast.Constant)]
            return {str(key.value): prose(on_line.get(key.lineno, "")) for key in keys}
    raise KeyError(name)


def comment_lines(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """Line -> its comment: of those behind code, and of those that stand alone."""
    on_line: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith("#:"):
            where = on_line if token.line[: token.start[1]].strip() else alone
            where[token.start[0]] = token.string.removeprefix("#").strip()
    return on_line, alone


def _bases(kind: type) -> list[type]:
    """The classes that declare its fields, the lowest first."""
    plain = (object, msgspec.Struct)
    return [
        base
        for base in reversed(kind.__mro__)
        if base not in plain and inspect.get_annotations(base)
    ]


def _sentences(kind: type) -> list[str]:
    text = " ".join((kind.__doc__ or "").split())
    return _SENTENCE.split(text) if text else []


def _words(found: Any) -> str:
    """A type in words: its bounds and its unit where it has them."""
    told = wanted(found)
    if told.startswith(_MUST) and told.strip() != _MUST:
        return prose(_WHOLE.sub(r"\1", told.removeprefix(_MUST).strip()))
    if isinstance(found, kinds.Metadata):
        unit = (found.extra_json_schema or {}).get("description", "")
        plain = _words(found.type)
        is_unit = unit and not unit.startswith("must")
        return f"{plain}, {prose(unit)}" if is_unit else plain
    if isinstance(found, kinds.UnionType):
        parts = [_words(one) for one in found.types if not isinstance(one, kinds.NoneType)]
        return " or ".join(dict.fromkeys(parts))
    if isinstance(found, kinds.VarTupleType | kinds.ListType | kinds.SetType):
        return f"a list, each {_words(found.item_type)}"
    if isinstance(found, kinds.DictType):
        return f"a table, each {_words(found.value_type)}"
    if isinstance(found, kinds.CustomType):
        return "a size" if found.cls is Size else f"a {found.cls.__name__}"
    return _PLAIN.get(type(found), "anything")


_PLAIN: dict[type, str] = {
    kinds.BoolType: "true or false",
    kinds.StructType: "a table",
    kinds.FloatType: "a number",
    kinds.IntType: "a whole number",
    kinds.StrType: "a text",
}


def _default(field: kinds.Field) -> str:
    if field.required:
        return REQUIRED
    value = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    if value is None:
        return "none"
    if isinstance(value, Size):
        return code(shown(value))
    if isinstance(value, msgspec.Struct) or value in ((), {}, []):
        return "empty"
    return code(msgspec.json.encode(value, enc_hook=str).decode())


def shown(size: Size) -> str:
    """A size as a scenario writes it."""
    for unit, count in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size and size % count == 0:
            return f'"{size // count} {unit}"'
    return str(int(size))
