"""The verbs of ``memcoord vm``, with their options; ``memcoord.commands.vm`` does what they say.

Owns: nothing else. Called by ``memcoord.cli``.
"""

from typing import Annotated

import typer

from memcoord.commands import show
from memcoord.commands.options import Json

vm_app = typer.Typer(
    name="vm", help="Virtual machines: what they boot and run on.", no_args_is_help=True
)
Kernel = Annotated[
    str | None, typer.Option(metavar="FILE", help="A kernel of your own, with --initrd.")
]
Initrd = Annotated[
    str | None, typer.Option(metavar="FILE", help="An initial file system of your own.")
]
Disk = Annotated[
    str | None, typer.Option(metavar="FILE", help="A disk of your own: raw, or .qcow2.")
]


@vm_app.command()
def build(
    kernel: Annotated[
        str | None,
        typer.Option(metavar="PACKAGE|FILE", help="A package, a .deb, or a kernel's file."),
    ] = None,
    modules: Annotated[
        str | None, typer.Option(metavar="DIR", help="The modules of a kernel's file.")
    ] = None,
    busybox: Annotated[str | None, typer.Option(metavar="FILE", help="A static busybox.")] = None,
    program: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE.c", help="One more program, in C; may be repeated."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Make it again, with the newest kernel.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the image that guests boot, from packages of this machine's mirror."""
    from memcoord.commands.vm import BuildOptions, build_command

    options = BuildOptions(kernel, modules, busybox, tuple(program or ()), again)
    show(as_json, *build_command(options))


@vm_app.command()
def probe(kernel: Kernel = None, initrd: Initrd = None, as_json: Json = False) -> None:
    """Say which accelerator works here: a guest is booted under KVM, for 10 s at most."""
    from memcoord.commands.vm import Boots, probe_command

    show(as_json, *probe_command(Boots(kernel, initrd)))


@vm_app.command()
def run(
    command: Annotated[list[str], typer.Argument(help="What to run in the guest.")],
    memory: Annotated[str, typer.Option(help="What the guest boots with.")] = "256 MiB",
    swap: Annotated[str | None, typer.Option(metavar="SIZE", help="A disk to swap to.")] = None,
    kernel: Kernel = None,
    initrd: Initrd = None,
    disk: Disk = None,
) -> None:
    """Boot a guest, run a command in it, and end it."""
    from memcoord.commands.vm import Boots, run_command

    raise typer.Exit(run_command(command, Boots(kernel, initrd, disk), memory, swap))
