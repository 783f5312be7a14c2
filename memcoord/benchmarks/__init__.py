"""The benches: a grant beside malloc, a message beside the kernel's own, tmem beside its rivals."""
