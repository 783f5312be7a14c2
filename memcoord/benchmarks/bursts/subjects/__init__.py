"""Programs whose demand for memory is recorded, where no finished program does the work."""
