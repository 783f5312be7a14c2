"""The verb ``metrics``, with its options.

Owns: nothing else; ``memcoord.commands.metrics`` does what they say. Called by ``memcoord.cli``.
"""

from typing import Annotated

import typer

from hypervisor.public.errors import ConfigError

#: What exporters for Prometheus that have none of their own use, since OpenTelemetry chose it.
PORT = 9464


def metrics(
    run: Annotated[
        str | None, typer.Argument(help="A run's name or directory (default: the newest).")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0: any free one.")
    ] = PORT,
    once: Annotated[bool, typer.Option("--once", help="Print them, and end.")] = False,
    token_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="The token a scrape must send is here (default: one is made)."
        ),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Let every user of this machine read them.")
    ] = False,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Instead: print a dashboard for Grafana.")
    ] = False,
    alerts: Annotated[
        bool, typer.Option("--alerts", help="Instead: print alerting rules for Prometheus.")
    ] = False,
) -> None:
    """Serve a live run's statistics to Prometheus."""
    from memcoord.commands import metrics as command

    if dashboard and alerts:
        raise ConfigError("--alerts", "--dashboard asks for another file; print one at a time")
    if dashboard:
        command.show_dashboard()
    elif alerts:
        command.show_alerts()
    else:
        options = command.MetricsOptions(port, once, token_file, no_token)
        raise typer.Exit(command.metrics_command(run, options))
