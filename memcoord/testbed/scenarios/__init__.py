"""Scenarios: the schema of their files, and the files that are shipped."""
