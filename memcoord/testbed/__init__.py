"""Real processes: scenarios, reference streams, guests, runs and their reports."""
