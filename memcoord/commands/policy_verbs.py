"""``memcoord policy list``, ``new`` and ``check``, with their options.

Owns: nothing else; ``memcoord.commands.policy`` does what they say. Called by ``memcoord.cli``.
"""

from typing import Annotated

import typer

from memcoord.commands import EXIT_FAILED, columns, completing, show
from memcoord.commands.options import Json


def list_(as_json: Json = False) -> None:
    """Name every policy that can be given to --policy, with its parameters."""
    from memcoord.commands.policy import list_policies

    show(as_json, *list_policies(columns()))


def new(
    name: Annotated[str, typer.Argument(help="Lower case; names the file and the class.")],
    directory: Annotated[
        str | None, typer.Option("--dir", metavar="DIR", help="Write it here (default: here).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a policy that works and its test, to be changed."""
    from memcoord.commands.policy import new_policy

    show(as_json, *new_policy(name, directory))


def check(
    policy: Annotated[
        str,
        typer.Argument(
            help="NAME, NAME:KEY=VALUE or FILE.py:CLASS.", autocompletion=completing.policies
        ),
    ],
    as_json: Json = False,
) -> None:
    """Try a policy on everything its contract asks; tell which clause failed on which input."""
    from memcoord.commands.policy import check as tried

    passed, result, lines = tried(policy)
    show(as_json, result, lines)
    raise typer.Exit(0 if passed else EXIT_FAILED)


def add_policy_verbs(policy_app: typer.Typer) -> None:
    """Give the app these verbs."""
    policy_app.command("list")(list_)
    policy_app.command("new")(new)
    policy_app.command("check")(check)
