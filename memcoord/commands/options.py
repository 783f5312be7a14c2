"""Two options that many verbs have, as the app declares them."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
RunDirOption = Annotated[
    str | None, typer.Option("--run-dir", metavar="DIR", help="The run's directory.")
]
