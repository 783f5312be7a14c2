"""Verbs that ask a live hypervisor for one thing: ``validate``, ``mem-set``, ``tmem-*``.

Owns: ``VERBS``, the table of them, of which ``add_verbs`` makes commands. A verb has the name of
the control operation it asks for (``hypervisor.public.messages.OPS``). Its parameters are those of
the command line; it returns the operation's arguments, the object shown with ``--json`` and the
line shown without. ``_ANSWERS`` shows what the hypervisor answers, where that is more than "done".
"""

import functools
import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hypervisor.public.backend import not_reached
from hypervisor.public.errors import ConfigError
from memcoord.commands import run_dir_of, show
from memcoord.commands.options import Json, RunDirOption

#: How long a verb waits for a domain to do what its target asks, and how often it looks.
SETTLE_S, POLL_S = 1.0, 0.05
#: 4 PiB; whatever is asked for stays an exact number in every message.
PAGES_MAX = 1 << 40

Asked = tuple[dict[str, Any], dict[str, Any], str]
Verb = Callable[..., Asked]
VERBS: dict[str, Verb] = {}


def _verb(ask: Verb) -> Verb:
    VERBS[ask.__name__.replace("_", "-")] = ask
    return ask


def add_verbs(app: typer.Typer) -> None:
    """Make a command of ``app`` out of every verb, with ``--run-dir`` and ``--json``."""
    for op, ask in VERBS.items():
        app.command(op)(_command(op, ask))


def _command(op: str, ask: Verb) -> Callable[..., None]:
    @functools.wraps(ask)
    def command(run_dir: str | None, as_json: bool, **values: Any) -> None:
        from memcoord.testbed.runs import control_client

        arguments, result, line = ask(**values)
        place = run_dir_of(run_dir)
        answer = control_client.call(place, op, **arguments)
        if op in _ANSWERS:
            result, lines = _ANSWERS[op](answer, **values)
        else:
            standing = _settled(place, values["vm"], answer) if isinstance(answer, dict) else {}
            result, lines = result | standing, [line]
            if said := not_reached(standing):
                lines.append(f"{values['vm']}: {said}")
        show(as_json, result, lines)

    plain = inspect.signature(ask, eval_str=True)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    added = [
        inspect.Parameter("run_dir", kind, annotation=RunDirOption, default=None),
        inspect.Parameter("as_json", kind, annotation=Json, default=False),
    ]
    whole = plain.replace(parameters=[*plain.parameters.values(), *added])
    command.__signature__ = whole  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in whole.parameters.values()}
    return command


def _settled(place: Path, vm: str, standing: dict[str, Any]) -> dict[str, Any]:
    """How far a domain is on its way to a target that was just set, SETTLE_S later at most."""
    from memcoord.commands.runs import domains

    until_s = time.monotonic() + SETTLE_S
    while standing.get("reach") == "moving" and time.monotonic() < until_s:
        time.sleep(POLL_S)
        now = [row for row in domains(place) if row["name"] == vm]
        if not now:
            return {}
        standing = {name: now[0][name] for name in standing}
    return standing


def _validated(answer: dict[str, int]) -> tuple[dict[str, int], list[str]]:
    found = ", ".join(f"{count} {name}" for name, count in answer.items() if name[:3] != "is_")
    more = "" if answer["is_whole"] else "; tmem goes on: ask again"
    return answer, [f"in order: {found.replace('tmem_', 'tmem ')}{more}"]


_ANSWERS: dict[str, Callable[..., tuple[dict[str, Any], list[str]]]] = {
    "validate": _validated,
    "tmem-freeable": lambda answer: (answer, [f"{answer['freeable_mb']} MiB"]),
}
AnyVm = Annotated[str | None, typer.Argument()]
PINNED = typer.Argument(min=1, help="How many frames, from FRAME on.")
Everyone = Annotated[bool, typer.Option("--all", "-a", help="Every domain.")]


@_verb
def mem_set(
    vm: str, size: Annotated[str, typer.Argument(help="'64 MiB', a number of frames, or 'auto'.")]
) -> Asked:
    """Pin a domain's memory target; 'auto' gives it back to the policy."""
    return _pinned(vm, size, "target_frames", "memory target {} frames")


@_verb
def mem_pin(
    vm: str, frame: Annotated[int, typer.Argument(min=0)], count: Annotated[int, PINNED] = 1
) -> Asked:
    """Keep frames of a domain where they are, as targets of a device's DMA."""
    return _dma(vm, frame, count, "pinned")


@_verb
def mem_unpin(
    vm: str, frame: Annotated[int, typer.Argument(min=0)], count: Annotated[int, PINNED] = 1
) -> Asked:
    """Let go of frames that were pinned."""
    return _dma(vm, frame, count, "not pinned")


@_verb
def tmem_set(
    vm: str, size: Annotated[str, typer.Argument(help="'8 MiB', a number of pages, or 'auto'.")]
) -> Asked:
    """Pin a domain's tmem target (mm_target); 'auto' gives it back to the policy."""
    return _pinned(vm, size, "target_pages", "tmem target {} pages")


@_verb
def tmem_freeze(vm: AnyVm = None, everyone: Everyone = False) -> Asked:
    """Let a domain's tmem not grow: no new pages, until thawed."""
    return _frozen(vm, everyone, "frozen")


@_verb
def tmem_thaw(vm: AnyVm = None, everyone: Everyone = False) -> Asked:
    """Let a frozen domain's tmem grow again."""
    return _frozen(vm, everyone, "thawed")


@_verb
def tmem_weight(
    vm: str, weight: Annotated[int, typer.Argument(help="0: none of its own.")]
) -> Asked:
    """Set a domain's share of ephemeral memory, relative to the weights of the others."""
    asked = {"domain": vm, "weight": weight}
    return asked, asked, f"{vm}: weight {weight}"


@_verb
def tmem_quota(
    vm: str, size: Annotated[str, typer.Argument(help="'8 MiB', a number of pages, or 'none'.")]
) -> Asked:
    """Limit the pages a domain swaps to tmem; those beyond go to its disk."""
    pages = -1 if size == "none" else _pages(size)
    told = "no quota" if pages < 0 else f"at most {pages} persistent pages"
    return {"domain": vm, "pages": pages}, {"domain": vm, "quota_pages": pages}, f"{vm}: {told}"


@_verb
def tmem_shared_auth(
    vm: str, uuid: str, revoke: Annotated[bool, typer.Option("--revoke", help="No longer.")] = False
) -> Asked:
    """Let a domain share the ephemeral pool of a uuid with others that may."""
    asked = {"domain": vm, "uuid": uuid}
    told = f"{vm} may {'not ' if revoke else ''}share {uuid}"
    return asked | {"allow": not revoke}, asked | {"allowed": not revoke}, told


@_verb
def tmem_freeable() -> Asked:
    """Tell how many MiB tmem could give back to the host now."""
    return {}, {}, ""


@_verb
def validate() -> Asked:
    """Check the hypervisor's ledger and its pool of tmem, and tell what was counted."""
    return {}, {}, ""


def _pinned(vm: str, size: str, key: str, what: str) -> Asked:
    target = _pages(size)
    told = what.format(target) if target >= 0 else f"{what.split('{')[0]}the policy's again"
    asked = {"domain": vm, key: target}
    return asked, asked, f"{vm}: {told}"


def _dma(vm: str, frame: int, count: int, state: str) -> Asked:
    asked = {"domain": vm, "frame": frame, "count": count}
    return asked, asked | {"state": state}, f"{vm}: frames {frame} to {frame + count - 1} {state}"


def _frozen(vm: str | None, everyone: bool, state: str) -> Asked:
    if (vm is None) != everyone:
        raise ConfigError("VM", "name one domain, or say --all")
    told = f"{vm or 'every domain'}: tmem {state}"
    return {"domain": vm or ""}, {"domain": vm, "state": state}, told


def _pages(size: str) -> int:
    """Pages or frames named by ``"64 MiB"`` or ``"512"``; -1 for ``"auto"``. ConfigError."""
    from hypervisor.public.units import FRAME_BYTES, parse_bytes

    if size == "auto":
        return -1
    try:
        pages = parse_bytes(f"{size} pages" if size.isdecimal() else size) // FRAME_BYTES
    except ValueError as error:
        raise ConfigError("SIZE", str(error)) from None
    if pages > PAGES_MAX:
        raise ConfigError("SIZE", f"{size} is more than any machine has")
    return pages
