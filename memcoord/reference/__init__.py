"""The reference of the documentation, written from the code: ``docs/reference``.

Owns: the pages that list what there is to be set and read: keys, kinds, policies, mechanisms,
verbs, messages, columns, metrics, units. What a page says of a thing stands beside the thing in the
code: in its type, in a docstring, or in the comment on its line. ``python -m memcoord.reference
DIR`` writes the pages; nothing else of the product imports this room, and no command needs it.
"""
