"""``memcoord bench bank``: a bank of host memory in another process."""
