"""A domain that puts pages into the host's tmem, and takes them back."""

import memcoord

with memcoord.Hypervisor("32 MiB") as host, host.attach("vm1", "8 MiB") as vm1:
    pool = vm1.tmem.new_pool(persistent=True)
    frame = vm1.alloc()
    vm1.view(frame)[:5] = b"hello"
    print("put answers", vm1.tmem.put(pool, (1, 0, 0), 0, frame))
    vm1.view(frame)[:5] = b"-----"
    print("get answers", vm1.tmem.get(pool, (1, 0, 0), 0, frame), bytes(vm1.view(frame)[:5]))
    print(f"{host.statistics()['tmem_bytes'][0]:.0f} bytes of tmem are vm1's")
