"""``memcoord metrics``: a run's statistics for Prometheus; a dashboard and alerts of them.

Owns: the loop that reads the feed while a server answers scrapes, and what is said of where they
are. It is a subscriber as any other: it can neither slow the hypervisor nor ask it for anything.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hypervisor.public.errors import ConfigError
from hypervisor.public.feed import LATENCY_S
from memcoord.commands import EXIT_FAILED, tell
from memcoord.testbed.metrics.alerts import rules
from memcoord.testbed.metrics.dashboard import dashboard
from memcoord.testbed.metrics.exposition import Exposition
from memcoord.testbed.metrics.heard import Heard
from memcoord.testbed.metrics.secret import token_of
from memcoord.testbed.metrics.server import PATH, serving
from memcoord.testbed.runs import hiding, rundir
from memcoord.testbed.runs.loopback import ADDRESS
from memcoord.testbed.watch.reader import BadStatistics, FeedReader
from memcoord.testbed.watch.watched_run import state_of_ended

TOKEN_FILE = "metrics.token"
#: ``--once`` waits so long for a tick, and after it for what is told once a second.
FIRST_S, REST_S = 10.0, LATENCY_S + 0.5
READ_S = 0.2


@dataclass(frozen=True)
class MetricsOptions:
    """Options of the command line. ``port`` 0: a free one. ``token_file`` None: the user's own."""

    port: int = 0
    is_once: bool = False
    token_file: str | None = None
    is_open: bool = False


def metrics_command(run: str | None, options: MetricsOptions) -> int:
    """Serve the metrics of a run until interrupted, or print them once; the exit code.

    NoMetrics without prometheus_client; ConfigError for what cannot be served, as a run that is
    over.
    """
    if options.is_open and options.token_file is not None:
        raise ConfigError("--token-file", "--no-token asks for none")
    place = rundir.find_watched(run)
    heard = Heard(place.name)
    exposition = Exposition(heard)
    with FeedReader(place) as reader:
        reader.subscribe()
        if options.is_once:
            return _once(place, reader, heard, exposition)
        _serve(place, reader, heard, exposition, options)
    return 0


def show_dashboard() -> None:
    """Print the dashboard, for Grafana."""
    tell(json.dumps(dashboard(), indent=1))


def show_alerts() -> None:
    """Print the alerting rules, for Prometheus."""
    tell(rules())


def _serve(
    place: Path, reader: FeedReader, heard: Heard, exposition: Exposition, options: MetricsOptions
) -> None:
    if state_of_ended(place):
        raise ConfigError("RUN", f"{place.name} is over; `memcoord report` shows it")
    hiding.hide()  # this process knows the operator's token
    secret = Path(options.token_file or rundir.default_base().parent / TOKEN_FILE)
    token = "" if options.is_open else token_of(secret)
    with suppress(KeyboardInterrupt), serving(exposition, options.port, token) as port:
        who = "every user of this machine may read them" if options.is_open else f"token: {secret}"
        tell(f"metrics of {place.name}: http://{ADDRESS}:{port}{PATH}  ({who})")
        while True:  # until Ctrl-C
            _read(reader, heard, READ_S)


def _once(place: Path, reader: FeedReader, heard: Heard, exposition: Exposition) -> int:
    """Print what a scrape would get, as soon as all of it is known."""
    until_s = time.monotonic() + (0.0 if state_of_ended(place) else FIRST_S)
    while (seen := heard.look()).tick is None and time.monotonic() < until_s:
        _read(reader, heard, READ_S)
    until_s = time.monotonic() + (0.0 if seen.tick is None else REST_S)
    while not heard.look().has_counts and time.monotonic() < until_s:
        _read(reader, heard, READ_S)
    tell(exposition.text()[0].decode().rstrip())
    return EXIT_FAILED if seen.tick is None else 0


def _read(reader: FeedReader, heard: Heard, wait_s: float) -> None:
    """Take what has come; a message that cannot be read is counted, and the rest goes on."""
    reader.follow()
    try:
        for message in reader.read(round(wait_s * 1000)):
            heard.hear(message)
    except BadStatistics:
        heard.garbled()
