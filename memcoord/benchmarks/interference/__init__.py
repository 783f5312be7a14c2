"""``memcoord bench interference``: what busy neighbours do to a grant."""
