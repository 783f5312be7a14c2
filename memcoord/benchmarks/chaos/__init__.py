"""Kills of domains and of the hypervisor at any moment, and a search for what was lost."""
