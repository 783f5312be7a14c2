"""``--set key=value``: change one key of a scenario from the command line.

Owns: the path notation, the same that error messages use (``domain[0].workload.repeat``). Values
are TOML; a bare word is a string. Works on the decoded document, before it is checked.
"""

import re
from typing import Any

from hypervisor.public.documents import NotToml, decode_toml
from hypervisor.public.errors import ConfigError

PATH_DEPTH_MAX = 8

_STEP = re.compile(r"^([A-Za-z_][\w-]*)(?:\[(\d{1,6})\])?$")


def apply(raw: dict[str, Any], override: str) -> None:
    """Set one key of ``raw`` in place; ConfigError when the path leads nowhere."""
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    steps = [step for step in map(_STEP.match, names) if step]
    if not equals or not len(names) == len(steps) <= PATH_DEPTH_MAX:
        raise ConfigError(f"--set {override}", "write key=value, for example domain[0].ram=4MiB")
    try:
        value: Any = decode_toml(f"value = {text}", f"--set {key.strip()}")["value"]
    except NotToml:
        value = text.strip()  # a bare word is a string, as on every command line
    parent: Any = raw
    for step in steps[:-1]:
        parent = _descend(parent, step, key)
    last = steps[-1]
    if last[2] is not None:
        _list_of(parent, last[1], int(last[2]), key)[int(last[2])] = value
    elif isinstance(parent, dict):
        parent[last[1]] = value
    else:
        raise ConfigError(key, "there is no such table in the scenario")


def _descend(parent: Any, step: re.Match[str], key: str) -> Any:
    if step[2] is not None:
        return _list_of(parent, step[1], int(step[2]), key)[int(step[2])]
    if not isinstance(parent, dict):
        raise ConfigError(key, "there is no such table in the scenario")
    return parent.setdefault(step[1], {})


def _list_of(parent: Any, name: str, index: int, key: str) -> list[Any]:
    entries = parent.get(name) if isinstance(parent, dict) else None
    if not isinstance(entries, list) or index >= len(entries):
        raise ConfigError(key, f"there is no {name}[{index}] in the scenario")
    return entries
