"""The verb ``nbd`` and its options; ``memcoord.commands.nbd`` does what it says.

Owns: nothing else. Called by ``memcoord.cli``.
"""

from typing import Annotated

import typer

from memcoord.commands.options import Json


def nbd(
    socket: Annotated[str, typer.Option(metavar="PATH", help="The Unix socket to listen at.")],
    size: Annotated[str, typer.Option(help="Of the device.")] = "1 GiB",
    name: Annotated[str, typer.Option(help="The domain's name, and the export's.")] = "nbd",
    file: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="For what tmem refuses; nothing may be there yet."),
    ] = None,
    connections: Annotated[int, typer.Option(min=1, max=64, help="Clients at a time.")] = 4,
    run_dir: Annotated[
        str | None,
        typer.Option("--run-dir", metavar="DIR", help="Of a running hypervisor to attach to."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Of a hypervisor of its own (default: as --size, and more).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve a block device of tmem to NBD clients, until interrupted: a swap disk for QEMU."""
    from memcoord.commands.nbd import Options, nbd_command

    options = Options(
        socket=socket, size=size, name=name, file=file, connections=connections,
        run_dir=run_dir, memory=memory,
    )  # fmt: skip
    raise typer.Exit(nbd_command(options, as_json))
