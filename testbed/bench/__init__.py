"""The benches: what a grant costs beside malloc, and a ring round trip beside the kernel's own."""
