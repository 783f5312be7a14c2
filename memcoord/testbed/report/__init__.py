"""What a run yields: results, metrics, intervals, series, charts, progress."""
