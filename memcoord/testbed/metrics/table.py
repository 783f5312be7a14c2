"""Every metric that is exported, in one table: name, kind, labels, and where in the feed it is.

Owns: the names. The exporter, the dashboard, the alerts and the documentation take them from here.
Pure, and needs no Prometheus library. Names follow the conventions of Prometheus: a counter ends in
``_total``, sizes are bytes, times are seconds; a thing that is counted is named, as ``swap_ins``.

Every label has a small number of values: ``domain`` (64 at most on one host), ``path``, ``word``,
``use`` and ``why``. What has no bound, such as a rule, a process number or a tick, is no label.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypervisor.public.backend import REASONS
from hypervisor.public.units import FRAME_BYTES

GAUGE, COUNTER, HISTOGRAM, INFO = "gauge", "counter", "histogram", "info"
#: The samples of a kind, by what follows the name; of the rest it is the name itself.
_SAMPLES = {HISTOGRAM: ("_bucket", "_count", "_sum")}
UNITS = ("bytes", "seconds")

#: Values of ``use``, and the columns of the host they are; together they are the host.
USES = {
    "installed": "installed_frames",
    "ready": "ready_frames",
    "tmem": "tmem_frames",
    "free": "free_frames",
}
#: Values of ``path``, and the columns of a domain they are. Nobody waits for a grant by credit.
PATHS = {"credit": "grants_credit", "ring": "grants_ring", "transfer": "grants_transfer"}
#: Values of ``why``: words of ``reach_why``; ``moving`` where there is none.
MOVING, SILENT = "moving", "silent"
WHYS = (MOVING, *filter(None, REASONS))


@dataclass(frozen=True)
class Metric:
    """One metric. ``column``: where the feed has it, times ``factor``; empty where it is made."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    column: str = ""
    factor: float = 1

    @property
    def unit(self) -> str:
        """bytes, seconds, or nothing."""
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return last if last in UNITS else ""

    @property
    def samples(self) -> tuple[str, ...]:
        """The names that a query may use."""
        return tuple(self.name + suffix for suffix in _SAMPLES.get(self.kind, ("",)))


def _of_domain(
    kind: str, name: str, column: str, text: str, factor: float = 1, *more: str
) -> Metric:
    return Metric(f"memcoord_domain_{name}", kind, text, ("domain", *more), column, factor)


UP = Metric("memcoord_up", GAUGE, "1 while the hypervisor's ticks arrive. 0: all else is absent.")
AGE = Metric("memcoord_feed_age_seconds", GAUGE, "How long ago the last tick was.")
UNREADABLE = Metric(
    "memcoord_feed_unreadable_total", COUNTER, "Messages that this reader could not read."
)
RUN = Metric("memcoord_run_info", INFO, "The run that is read.", ("run", "scenario", "policy"))
RESTARTS = Metric(
    "memcoord_hypervisor_restarts_total", COUNTER, "Deaths of the hypervisor that were survived."
)
INTERVAL = Metric("memcoord_tick_interval_seconds", GAUGE, "The time between two ticks, as set.")
TICKS = Metric("memcoord_ticks_total", COUNTER, "Ticks: rounds of view, policy and plan.")
POLICY_FAULTS = Metric(
    "memcoord_policy_faults_total",
    COUNTER,
    "Ticks at which the policy failed; its last valid plan stood.",
    column="policy_faults",
)
MEMORY = Metric(
    "memcoord_host_memory_bytes", GAUGE, "Memory of the host, by what it is used for.", ("use",)
)
MEMORY_TOTAL = Metric(
    "memcoord_host_memory_total_bytes",
    GAUGE,
    "All memory of the host: the sum over every use.",
    column="total_frames",
    factor=FRAME_BYTES,
)
SLACK = Metric(
    "memcoord_host_slack_bytes",
    GAUGE,
    "Memory kept free for transfers, and for domains yet to boot.",
    column="slack_frames",
    factor=FRAME_BYTES,
)
TMEM_CAPACITY = Metric(
    "memcoord_host_tmem_capacity_bytes",
    GAUGE,
    "What tmem could hold now.",
    column="tmem_capacity_pages",
    factor=FRAME_BYTES,
)
TMEM_USED = Metric(
    "memcoord_host_tmem_used_bytes",
    GAUGE,
    "Pages that tmem holds, before it compresses or shares them.",
    column="tmem_used_pages",
    factor=FRAME_BYTES,
)
OF_HOST = (POLICY_FAULTS, MEMORY_TOTAL, SLACK, TMEM_CAPACITY, TMEM_USED)

RAM = _of_domain(GAUGE, "ram_bytes", "current_frames", "RAM that the domain holds.", FRAME_BYTES)
RAM_TARGET = _of_domain(
    GAUGE, "ram_target_bytes", "target_frames", "RAM that the domain is to hold.", FRAME_BYTES
)
RAM_LIMIT = _of_domain(
    GAUGE, "ram_limit_bytes", "", "RAM that the domain may ever hold: its maxmem."
)
RAM_UNMET = _of_domain(
    GAUGE, "ram_target_unmet", "", "1 while the target of RAM is not reached, and why.", 1, "why"
)
TMEM = _of_domain(
    GAUGE, "tmem_bytes", "tmem_used_pages", "Pages that the domain has in tmem.", FRAME_BYTES
)
TMEM_TARGET = _of_domain(
    GAUGE,
    "tmem_target_bytes",
    "tmem_target_pages",
    "Pages that the domain may have in tmem; absent: no limit.",
    FRAME_BYTES,
)
BROKEN = _of_domain(
    GAUGE, "broken", "broken", "1 if the hypervisor serves the domain no more: it broke the rules."
)
REPORTING = _of_domain(
    GAUGE, "reporting", "", "1 if the guest has ever said how it fares: references, faults, stalls."
)
PUTS = _of_domain(COUNTER, "tmem_puts_total", "puts", "Pages offered to tmem.")
PUTS_REFUSED = _of_domain(
    COUNTER, "tmem_puts_refused_total", "puts_failed", "Pages that tmem did not take."
)
REQUESTS_REFUSED = _of_domain(
    COUNTER, "requests_refused_total", "refused", "Requests for RAM that got none."
)
STALLS = _of_domain(
    COUNTER,
    "stall_seconds_total",
    "guest_stall_ns",
    "Time that the guest waited for memory, by its own word.",
    1e-9,
)
SWAP_INS = _of_domain(
    COUNTER, "swap_ins_total", "guest_swap_ins", "Pages read from disk, by the guest's word."
)
GROWN = _of_domain(
    COUNTER,
    "ram_grown_bytes_total",
    "grown_frames",
    "RAM given to the domain so far.",
    FRAME_BYTES,
)
SHRUNK = _of_domain(
    COUNTER,
    "ram_shrunk_bytes_total",
    "shrunk_frames",
    "RAM taken from the domain so far.",
    FRAME_BYTES,
)
BAD_REQUESTS = _of_domain(
    COUNTER, "bad_requests_total", "bad_requests", "Requests on the ring that broke its rules."
)
VIOLATIONS = _of_domain(
    COUNTER,
    "violations_total",
    "violations",
    "Areas that the domain used while they were not granted.",
)
GRANTS = _of_domain(
    COUNTER, "grants_total", "", "Areas of 2 MiB granted, by the path they came.", 1, "path"
)
GRANT_SECONDS = _of_domain(
    HISTOGRAM,
    "grant_seconds",
    "",
    "How long a grant took: by the guest's word, its wait; by the host's, from request to answer. "
    "Of a path that nobody waits for there is none. The sum is estimated within an eighth.",
    1,
    "path",
    "word",
)
OF_DOMAIN = (
    RAM,
    RAM_TARGET,
    _of_domain(
        GAUGE, "ram_resident_bytes", "resident_frames", "RAM the kernel really gave.", FRAME_BYTES
    ),
    _of_domain(
        GAUGE, "ram_pinned_bytes", "pinned_frames", "RAM that is pinned for DMA.", FRAME_BYTES
    ),
    TMEM,
    TMEM_TARGET,
    BROKEN,
    PUTS,
    PUTS_REFUSED,
    _of_domain(COUNTER, "tmem_gets_total", "gets", "Pages asked of tmem."),
    _of_domain(COUNTER, "tmem_gets_found_total", "gets_hit", "Pages asked of tmem and found."),
    _of_domain(
        COUNTER,
        "references_total",
        "guest_references",
        "References to pages, by the guest's word.",
    ),
    _of_domain(COUNTER, "faults_total", "guest_faults", "Page faults, by the guest's word."),
    SWAP_INS,
    _of_domain(
        COUNTER, "swap_outs_total", "guest_swap_outs", "Pages written to disk, by the guest's word."
    ),
    STALLS,
    REQUESTS_REFUSED,
    GROWN,
    SHRUNK,
    _of_domain(COUNTER, "ring_requests_total", "ring_requests", "Requests served on the ring."),
    BAD_REQUESTS,
    VIOLATIONS,
)
#: In the order in which they are exported.
METRICS: tuple[Metric, ...] = (
    *(UP, AGE, UNREADABLE, RUN, RESTARTS, INTERVAL, TICKS, MEMORY),
    *OF_HOST,
    *(RAM_LIMIT, RAM_UNMET, REPORTING),
    *OF_DOMAIN,
    *(GRANTS, GRANT_SECONDS),
)
