"""The verbs of ``memcoord vm``, with their options; ``memcoord.commands.vm`` does what they say.

Owns: nothing else. Called by ``memcoord.cli``.
"""

from typing import Annotated

import typer

from memcoord.commands import show
from memcoord.commands.options import Json

vm_app = typer.Typer(name="vm", help="Virtual machines: what they boot.", no_args_is_help=True)
Kernel = Annotated[str, typer.Option(metavar="FILE", help="The kernel to boot.")]
Initrd = Annotated[str, typer.Option(metavar="FILE", help="What it boots with.")]


@vm_app.command()
def probe(kernel: Kernel, initrd: Initrd, as_json: Json = False) -> None:
    """Say which accelerator works here: a guest is booted under KVM, for 10 s at most."""
    from memcoord.commands.vm import probe_command

    show(as_json, *probe_command(kernel, initrd))
