"""Worlds in virtual time: page streams against caches, and whole hosts without processes."""
