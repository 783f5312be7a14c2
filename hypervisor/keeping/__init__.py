"""How what a hypervisor holds outlives it: the keeper process, and the hypervisor's half."""
