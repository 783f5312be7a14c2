"""``python -P -m testbed``: the ``memcoord`` command without its script."""

from testbed.cli import main

main()
