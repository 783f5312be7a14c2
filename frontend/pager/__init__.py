"""Unmodified programs in a domain: their memory is paged by a library that is loaded into each.

``docs/programs.md`` explains it. ``abi/`` is that library, C11 that needs nothing but libc.
"""
