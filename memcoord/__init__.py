"""Launcher, scenarios, workloads, benches, reports and the ``memcoord`` command."""
