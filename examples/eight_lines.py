"""A hypervisor, two domains, memory that moves from one to the other, statistics, a figure."""

import memcoord

with memcoord.Hypervisor("32 MiB", interval_ms=20) as hv, hv.attach("a") as a, hv.attach("b") as b:
    a.free_areas(a.alloc_areas(10), 10)  # 20 MiB, free again, but still a's
    b.alloc_areas(8)  # the host has 8 MiB left: it takes the rest from a
    have = hv.statistics()
    print(dict(zip(have["name"].tolist(), have["ram_bytes"].tolist(), strict=True)))
    print(f"{have['grants_transfer'].sum():.0f} areas came from the other domain")
    hv.history().plot("memory.svg")
