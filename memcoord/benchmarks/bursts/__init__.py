"""``memcoord bench bursts``: sudden demand against each mechanism."""
