"""Domains that are virtual machines: the program that books one, leads it and speaks for it."""
