"""Finished runs: read as columns, shown as pages, drawn as figures, exported as traces."""
