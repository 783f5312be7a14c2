"""The verbs that are to start at once, read without the app: its import takes longer than they.

Owns: their words. Whatever is not plainly one of them is left to ``memcoord.cli``, which has the
same verbs with the same options, explains them, and says what is wrong with a command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from memcoord.commands import tell

#: What ``exec`` takes where nothing is given.
EXEC_NAME, EXEC_RAM = "vm1", "256MiB"

Given = dict[str, str]


class Words(NamedTuple):
    """What may follow a verb: options with a value, options without, and how many arguments."""

    valued: tuple[str, ...]
    flags: tuple[str, ...] = ()
    arguments: tuple[int, int] = (0, 0)  # least and most
    is_prefix: bool = False  # all from the first argument on are arguments

    def read(self, words: Sequence[str]) -> tuple[Given, list[str]] | None:
        """Options by name (of a flag: itself) and arguments; None for what is not plain."""
        given: Given = {}
        arguments: list[str] = []
        left = list(words)
        while left:
            word = left.pop(0)
            name, equals, value = word.partition("=")
            if not word.startswith("-"):
                arguments.append(word)
            elif word == "--":
                arguments += left
                break
            elif word in self.flags:
                given[word] = word
            elif name in self.valued and (equals or left):
                given[name] = value if equals else left.pop(0)
            else:
                return None
            if arguments and self.is_prefix:
                arguments += left
                break
        least, most = self.arguments
        return (given, arguments) if least <= len(arguments) <= most else None


VERBS = {
    "exec": Words(
        valued=("--name", "--ram", "--max", "--run-dir", "--memory", "--swap-dir"),
        flags=("--json",),
        arguments=(1, 1 << 20),
        is_prefix=True,
    ),
    "hypervisor": Words(valued=("--run-dir",), arguments=(0, 1)),
}


def command_of(words: Sequence[str]) -> Callable[[], None] | None:
    """What a command line asks for, ready to be called; None where the app must read it."""
    if list(words) == ["--version"]:
        return _version
    verb = VERBS.get(words[0]) if words else None
    read = None if verb is None else verb.read(words[1:])
    if read is None:
        return None
    return partial(_exec if words[0] == "exec" else _hypervisor, *read)


def _version() -> None:
    import memcoord

    tell(f"memcoord {memcoord.__version__}")


def _exec(given: Given, arguments: list[str]) -> None:
    from memcoord.commands.exec_program import Options, exec_command

    options = Options(
        given.get("--name", EXEC_NAME),
        given.get("--ram", EXEC_RAM),
        given.get("--max"),
        given.get("--run-dir"),
        given.get("--memory"),
        given.get("--swap-dir"),
    )
    raise SystemExit(exec_command(arguments, options, "--json" in given))


def _hypervisor(given: Given, arguments: list[str]) -> None:
    from memcoord.commands.serve import host_command

    source = arguments[0] if arguments else None
    raise SystemExit(host_command(source, given.get("--run-dir"), tell))
