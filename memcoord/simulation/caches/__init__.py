"""One reference stream against a cache: exact misses, curves, estimates."""
