"""The ABI every side shares: layouts, ring, frame allocator, messages, errors.

The only part of ``hypervisor`` a frontend may import. Importing it loads nothing compiled.
"""
