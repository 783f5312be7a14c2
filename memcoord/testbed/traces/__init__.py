"""Files of references: one reader for every form, shorter traces, traces of one's own programs.

``table.read_table`` opens a file in any form that ``docs/traces.md`` names; ``forms`` knows what
each form looks like, ``unpacked`` what it is packed with. ``numbering`` gives pages dense numbers,
``converted`` writes a trace in our own form. No file of references is held: it is read in blocks.
``demand`` and ``sampling`` are about another kind: the memory that a program held over time.
"""
