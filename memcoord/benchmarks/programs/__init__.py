"""``memcoord bench programs``: unmodified programs in a domain beside the same outside."""
