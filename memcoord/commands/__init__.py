"""The verbs of the ``memcoord`` command, one file each: options in, text or JSON out."""
