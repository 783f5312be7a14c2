"""The pages of messages: attaching, the control plane, the statistics feed.

Owns: nothing but the pages; the structs and tables that both sides decode with say all of it.
"""

from __future__ import annotations

import msgspec

from hypervisor.coordination.feed import CURVE_COLUMN, DOMAIN_COLUMNS, HOST_COLUMNS
from hypervisor.public import feed, messages
from hypervisor.public.backend import DomainSnapshot, HostSnapshot
from memcoord.commands.control import VERBS
from memcoord.reference.fields import about, described, entries_of, fields_of, meanings
from memcoord.reference.markdown import code, page, table

ATTACHING = (messages.AttachRequest, messages.Attached, messages.Refused)
CONTROL = (messages.Request, messages.Reply)


def control_page() -> str:
    """Messages of attaching, and the operations of the control plane."""
    said = entries_of(messages, "OPS")
    rows = [
        (
            code(op),
            ", ".join(f"{code(name)} {kind.__name__}" for name, kind in arguments.items()),
            said[op],
            f"[`{op}`](verbs.md#{op})" if op in VERBS else "",
        )
        for op, arguments in messages.OPS.items()
    ]
    return page(
        "Control messages",
        f"One message is a msgpack array `[tag, version, ...]` of at most "
        f"{messages.MESSAGE_BYTES_MAX:,} bytes; the version is {messages.VERSION}. "
        "`memcoord.control(run_dir, OP, **arguments)` asks from Python.",
        "## Operations",
        f"Over ZeroMQ `{messages.CONTROL_SOCKET}` in the run directory: a request, and the reply "
        "with the same `request_id`.",
        table(("operation", "arguments", "what it does or tells", "verb"), rows),
        *(part for kind in CONTROL for part in _message(kind)),
        "## Attaching",
        f"Over the Unix socket `{messages.ATTACH_SOCKET}` (SOCK_SEQPACKET).",
        *(part for kind in ATTACHING for part in _message(kind)),
    )


def feed_page() -> str:
    """Messages of the statistics feed, and the columns of a tick."""
    kinds = [part for kind, topic in feed.TOPICS.items() for part in _message(kind, topic)]
    return page(
        "The statistics feed",
        f"Over ZeroMQ `{messages.STATS_SOCKET}` in the run directory (XPUB), version "
        f"{feed.FEED_VERSION}: two frames, a topic and a msgpack array. "
        "[Watching a run](../watching.md#the-feed) says who may read it.",
        *kinds,
        *_message(feed.DomainLimits),
        *_message(feed.DecisionRow),
        *_message(feed.LatencyRow),
        "## Columns of a domain",
        about(DomainSnapshot),
        table(("column", "unit", "what it is"), domain_rows()),
        "## Columns of the host",
        about(HostSnapshot),
        table(("column", "unit", "what it is"), host_rows()),
    )


def domain_rows() -> list[tuple[str, str, str]]:
    """Column, unit and meaning of what a tick tells of a domain."""
    fields = {field.name: field for field in fields_of(DomainSnapshot)}
    rows = [
        (code(name), _PLAIN.get(fields[name].kind) or feed.unit_of(name), fields[name].says)
        for name in DOMAIN_COLUMNS
    ]
    return [*rows, (code(CURVE_COLUMN), feed.unit_of(CURVE_COLUMN), fields["mrc"].says)]


def host_rows() -> list[tuple[str, str, str]]:
    """The same of the host."""
    said = meanings(HostSnapshot) | {"policy_faults": "ticks at which the policy failed"}
    names = (*HOST_COLUMNS, "policy_faults")
    return [(code(name), feed.unit_of(name), said[name]) for name in names]


def _message(kind: type[msgspec.Struct], topic: str = "") -> list[str | list[str]]:
    tag = kind.__struct_config__.tag
    title = f"### {kind.__name__}"
    told = f"Topic `{topic}`." if topic else f"Tag `{tag}`." if tag else ""
    return [title, *([told] if told else []), described(kind)]


#: Kind of a column that is no number -> what stands for its unit.
_PLAIN = {"a text": "text", "true or false": "flag"}
