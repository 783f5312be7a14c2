"""The ABI every side shares: layouts, ring, frame allocator, messages, errors.

The only part of ``hypervisor`` a frontend may import. Importing it loads nothing compiled.
"""

from __future__ import annotations

#: Every module that is compiled at installation. A file of the same name with the ending .py stands
#: in where nothing is compiled, and says what to do.
COMPILED = (
    "tmem._calls",
    "frontend._guest",
    "backend._service",
    "memcoord.testbed.guests._content",
    "memcoord.testbed.traces._table",
    "memcoord.benchmarks._loops",
)
