"""``memcoord bench ring``: a message to the hypervisor beside the kernel's own ways."""
