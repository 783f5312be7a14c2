"""``memcoord bench agreement``: whether simulator and testbed tell the same of policies."""
