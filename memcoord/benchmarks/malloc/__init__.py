"""``memcoord bench malloc``: unmodified allocators in a domain beside the same outside."""
