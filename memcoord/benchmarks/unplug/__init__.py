"""``memcoord bench unplug``: memory asked back of a guest that works."""
