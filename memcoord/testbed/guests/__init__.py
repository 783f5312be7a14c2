"""The programs that domain processes run."""
