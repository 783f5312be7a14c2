"""Hypervisor side: host memory, domain table, coordinator, control plane."""
