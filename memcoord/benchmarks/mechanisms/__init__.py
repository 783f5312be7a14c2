"""``memcoord bench mechanisms``: every way to resize a domain, on one ruler."""
