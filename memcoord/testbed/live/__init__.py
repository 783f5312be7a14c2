"""One run under one policy: the hypervisor process, its session and its recorder."""
