"""The page of verbs: every command with its arguments and options, as the app declares them.

Owns: how a command of click becomes a table.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_args

import typer

from memcoord.cli import app
from memcoord.reference.markdown import code, page, prose, table

HEADS = ("", "value", "default", "what it is")


def verbs(command: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every verb, as it is typed after ``memcoord``, and its command of click."""
    command = typer.main.get_command(app) if command is None else command
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word in sorted(inner):
        yield from verbs(inner[word], f"{name} {word}".strip())


def spelled(parameter: Any) -> list[str]:
    """How an option or an argument is written."""
    if parameter.param_type_name == "argument":
        return [parameter.metavar or str(parameter.name).upper()]
    return [*parameter.opts, *parameter.secondary_opts]


def verb_page() -> str:
    """All of them."""
    found = dict(verbs())
    rows = [
        (f"[`{name}`](#{name.replace(' ', '-')})", prose(str(one.help)))
        for name, one in found.items()
    ]
    return page(
        "Verbs",
        "`memcoord VERB --help` shows the same. With `--json` a verb prints one JSON object and "
        "nothing else; an error is one line on standard error. Exit codes: 0 done, 1 failed, "
        "2 wrong usage, 130 interrupted.",
        table(("verb", "what it does"), rows),
        *(part for name, one in found.items() for part in _verb(name, one)),
    )


def _verb(name: str, command: Any) -> list[str | list[str]]:
    arguments = " ".join(
        spelled(one)[0] if one.required else f"[{spelled(one)[0]}]"
        for one in command.params
        if one.param_type_name == "argument"
    )
    usage = " ".join(word for word in ("memcoord", name, "[OPTIONS]", arguments) if word)
    declared = inspect.signature(command.callback, eval_str=True).parameters
    rows = [_row(one, declared[one.name].annotation) for one in command.params]
    return [f"## {name}", prose(str(command.help)), f"```sh\n{usage}\n```", table(HEADS, rows)]


def _row(parameter: Any, annotation: Any) -> tuple[str, str, str, str]:
    says = getattr(parameter, "help", "") or ""
    if parameter.multiple:
        says = f"{says} May be repeated." if "repeated" not in says else says
    words = " ".join(code(word) for word in spelled(parameter))
    return words, _value(parameter, annotation), _default(parameter), prose(says)


def _value(parameter: Any, annotation: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return ""
    kinds = [word for kind, word in _KINDS.items() if kind in _types_in(annotation)]
    told = next(
        (one for one in getattr(annotation, "__metadata__", ()) if hasattr(one, "min")), None
    )
    least, most = getattr(told, "min", None), getattr(told, "max", None)
    bounds = "" if least is None else f"{least} or more" if most is None else f"{least} to {most}"
    is_option = parameter.param_type_name == "option"
    word = (parameter.metavar if is_option else None) or " ".join(kinds)
    return prose(", ".join(filter(None, (word, bounds))))


def _types_in(annotation: Any) -> set[Any]:
    """The plain types that an annotation is made of."""
    parts = get_args(annotation)
    return {annotation}.union(*map(_types_in, parts)) if parts else {annotation}


_KINDS = {str: "text", int: "whole number", float: "number"}


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required or value in (None, False, "", (), []) or callable(value):
        return ""
    return code(value)
