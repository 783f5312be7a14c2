"""``memcoord bench bursts``: what sudden demand gets from each mechanism."""
