"""A finished run as columns of numpy, which pandas and polars take as they are."""

import numpy as np

import memcoord

# memcoord.open_run() is the newest run of `memcoord run`; this one is made here.
memcoord.simulate("main", ["greedy", "smart-alloc"], scale=0.2, seeds=1, run_dir="a-run")
run = memcoord.open_run("a-run")
print(run.verdict[0])
for policy, domain, reads in zip(
    *(run.table[name] for name in ("policy", "domain", "disk_reads")), strict=True
):
    print(f"{policy:12} {domain}: {reads:,.0f} pages read from disk")
ticks = run.series("greedy")
print(f"{len(ticks['tick'])} rows of {len(ticks)} columns")
waits = run.rate("stall_s", "greedy", window_s=0.5)
worst = np.nanargmax(waits["per_s"])
print(f"{waits['domain'][worst]} waited most: {waits['per_s'][worst]:.0%} of its time")
decisions = run.decisions("smart-alloc", "vm1")
print(f"{len(decisions['rule'])} decisions on vm1, the last by the rule {decisions['rule'][-1]!r}")
