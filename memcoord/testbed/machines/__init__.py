"""Real virtual machines: image, QEMU's command line and process, the agent in the guest."""
