"""``memcoord bench cheats``: domains that take memory they were not granted."""
