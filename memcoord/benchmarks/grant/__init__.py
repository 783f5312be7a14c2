"""``memcoord bench grant``: a grant of memory beside ``malloc``."""
