"""Sweeps: policies x parameters x scenarios x seeds, resumable, here or on a Dask cluster."""
