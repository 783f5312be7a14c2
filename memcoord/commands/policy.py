"""``memcoord policy``: list the policies, write a first one of one's own, check one.

Owns: the words of the three verbs and the copies of ``templates/`` that ``policy new`` writes.
Returns lines and one JSON object; prints nothing. Called by the command line.
"""

from __future__ import annotations

import contextlib
import keyword
import re
import socket
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.public.documents import UNREADABLE
from hypervisor.public.errors import ConfigError
from memcoord.commands import wrapped
from memcoord.commands.packages import ROOTS
from policies import available, confine, describe
from policies.base import PolicyError
from policies.conformance import CLAUSES
from policies.host_process import BEAT, VERDICT_BYTES_MAX, Verdict

NAME_CHARACTERS_MAX = 40
#: Column of a policy's summary in the list.
SUMMARY_AT = 15
#: The most that ``policy check`` takes, and without a sign of life from the kit.
CHECK_S, QUIET_S, POLL_S = 600.0, 30.0, 0.1
#: What the kit cannot ask, for it is not there to say so.
ALIVE = {"alive": "the process that tries it lives until the verdict and shows signs of life"}
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
#: A policy called new-policy and its test, which work as they are; a new one is a copy, renamed.
_TEMPLATES = resources.files("memcoord") / "templates"
#: A file of one of these names would hide a module from every program run beside it.
_HIDES = sys.stdlib_module_names | {
    *ROOTS,
    *("msgspec", "numba", "numpy", "pytest", "rich", "typer", "zmq"),
}

Answer = tuple[dict[str, Any], list[str]]


def list_policies(width: int = 80) -> Answer:
    """Every policy with a name: its origin, its summary, its parameters."""
    found: dict[str, dict[str, Any]] = {}
    lines = []
    for name, source in available().items():
        try:
            with contextlib.redirect_stdout(sys.stderr):  # another package's import may print
                told = msgspec.to_builtins(describe(name), enc_hook=str)
        except PolicyError as error:
            told = {"source": source, "summary": f"cannot be used: {error}", "parameters": {}}
        found[name] = told
        where = "" if source == "built in" else f" ({source})"
        lines += wrapped(f"{told['summary']}{where}", SUMMARY_AT, width, name)
        if told["parameters"]:
            shown = ", ".join(f"{key}={value}" for key, value in told["parameters"].items())
            lines += wrapped(shown, SUMMARY_AT + 2, width)
    lines.append("")
    lines.append("Parameters are set as in smart-alloc:P=6. Your own: memcoord policy new NAME")
    return {"policies": found}, lines


def new_policy(name: str, directory: str | None) -> Answer:
    """Write NAME.py and test_NAME.py, never over a file; ConfigError names the obstacle."""
    if not _NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX:
        raise ConfigError(
            "NAME", f"{name!r}: write lower-case letters, digits, - and _; a letter comes first"
        )
    module = name.replace("-", "_")
    if module in _HIDES or keyword.iskeyword(module):
        raise ConfigError("NAME", f"{name!r} is the name of a module of Python's or of ours")
    kind = "".join(part.capitalize() for part in module.split("_"))
    folder = Path(directory or ".")
    files = {folder / f"{before}{module}.py": f"{before}new_policy.py" for before in ("", "test_")}
    for path in files:
        if path.exists():
            raise ConfigError("NAME", f"{path} is there already")
    folder.mkdir(parents=True, exist_ok=True)
    for path, template in files.items():
        text = (_TEMPLATES / template).read_text(encoding="utf-8")
        text = text.replace("new-policy", name).replace("new_policy", module)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text.replace("NewPolicy", kind))
        except OSError:
            for made in files:  # half a pair would stand in the way of the next attempt
                made.unlink(missing_ok=True)
            raise
    policy, test = map(str, files)
    label = f"{policy}:{kind}"
    lines = [
        f"wrote {policy} and {test}; next:",
        f"  memcoord policy check {label}    does it keep the contract?",
        f"  memcoord sim --policy greedy --policy {label}    how does it do?",
        f"  python -m pytest {test}    what it is for, as a test",
    ]
    return {"policy": label, "files": [policy, test]}, lines


def check(text: str) -> tuple[bool, dict[str, Any], list[str]]:
    """Whether the policy ``text`` names keeps the contract, and the findings of the kit.

    The kit runs in a confined process: a policy that ends it, or is heard of no more, has failed.
    PolicyError when there is no such policy.
    """
    verdict = _verdict(text)
    if verdict.error:
        raise PolicyError(verdict.error)
    return not verdict.failures, _to_json(text, verdict), _lines(text, verdict)


def _verdict(text: str) -> Verdict:
    """What the kit says; when it cannot, a failure of the clause "alive"."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        arguments = ["check", str(theirs.fileno()), text]
        process = confine.start(arguments, fds=[theirs.fileno()], stderr=None)
        theirs.close()
        until_s = time.monotonic() + CHECK_S
        try:
            while True:
                left_s = until_s - time.monotonic()
                ours.settimeout(max(min(left_s, QUIET_S), POLL_S))
                data = ours.recv(VERDICT_BYTES_MAX)
                if data == BEAT and left_s > 0:
                    continue
                if not data:
                    what = f"its process {confine.ending(process.wait(QUIET_S))} before the verdict"
                    return _dead(what)
                if data != BEAT:
                    return msgspec.msgpack.decode(data, type=Verdict)
                return _dead(f"the kit was not done after {CHECK_S:.0f} s")
        except TimeoutError:
            return _dead(f"it was not heard of for {QUIET_S:.0f} s")
        except (OSError, *UNREADABLE, subprocess.TimeoutExpired) as error:
            return _dead(f"its process gave no verdict: {error}")
        finally:
            confine.kill(process)
            process.wait()


def _dead(what: str) -> Verdict:
    return Verdict(failures=(("alive", what, "no particular input"),))


def _to_json(text: str, report: Verdict) -> dict[str, Any]:
    failed = {clause for clause, _, _ in report.failures}
    tried = (*ALIVE, *report.tried)
    verdicts = dict.fromkeys(tried, "pass") | dict.fromkeys(failed, "FAIL")
    other = "not declared" if report.tried else "not tried"
    return {
        "policy": text,
        "passed": not failed,
        "clauses": {name: verdicts.get(name, other) for name in ALIVE | CLAUSES},
        "failures": [
            {"clause": clause, "what": what, "input": view}
            for clause, what, view in report.failures
        ],
        "plan_ns": {str(domains): taken for domains, taken in report.plan_ns.items()},
    }


def _lines(text: str, report: Verdict) -> list[str]:
    failures = {clause: (what, view) for clause, what, view in report.failures}
    lines = []
    for name, asks in (ALIVE if "alive" in failures else CLAUSES).items():
        if name in failures:
            what, view = failures[name]
            lines.append(f"FAIL {name:12} {what}")
            lines.append(f"     {'':12} on {view}")
        else:
            lines.append(f"{'pass' if name in report.tried else '  - '} {name:12} {asks}")
    for domains, taken_ns in report.plan_ns.items():
        each = taken_ns / domains
        lines.append(f"{domains:6} domains: {taken_ns / 1000:.0f} us a plan, {each:.0f} ns each")
    if failures:
        lines.append(f"{text} breaks {len(failures)} of {max(len(report.tried), 1)} clauses")
    else:
        lines.append(f"{text} keeps the contract; next:")
        lines.append(f"  memcoord sim --policy greedy --policy {text}")
    return lines
