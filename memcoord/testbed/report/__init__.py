"""The outcome of a run: results, metrics, intervals, series, charts, progress."""
