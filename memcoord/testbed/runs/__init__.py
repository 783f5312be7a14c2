"""Run directories and child processes: names, identity, start, stop, control."""
