"""Watching a run: the statistics feed as its readers see it, what is kept of it, and live views."""
