"""``memcoord web``: a run in the browser. A reader process of its own, loopback and read-only."""
