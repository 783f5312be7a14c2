"""``memcoord bench policies``: every policy on every scenario, in both worlds."""
