"""Programs of our own in C, of the kinds SmarTmem was measured with; their data; a server."""
