"""Block devices whose blocks are pages of a domain's tmem, served over NBD.

For what cannot be a domain itself: the swap disk of a virtual machine, whose QEMU is the client.
"""

from frontend.blocks.device import BlockDevice
from frontend.blocks.statistics import BlockStatistics

__all__ = ["BlockDevice", "BlockStatistics"]
