"""``memcoord bench interference``: a grant beside busy neighbours."""
