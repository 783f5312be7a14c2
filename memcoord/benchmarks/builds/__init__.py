"""``memcoord bench build``: the footprint over time of a real build, by mechanism."""
