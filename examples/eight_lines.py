"""A hypervisor, two domains, memory that moves from one to the other, statistics."""

import memcoord

with memcoord.Hypervisor("32 MiB") as host, host.attach("vm1") as vm1, host.attach("vm2") as vm2:
    first = vm1.alloc_areas(10)  # of 2 MiB; the host has 14 beside its slack
    vm1.free_areas(first, 10)  # free again, but still vm1's
    vm2.alloc_areas(8)  # the host has 4 left: it takes the others from vm1
    have = host.statistics()
    print(dict(zip(have["name"], have["ram_bytes"] / 2**20, strict=True)), "MiB of RAM")
    print(f"{have['grants_transfer'].sum():.0f} areas came from the other domain")
