"""``memcoord vm``: what virtual machines boot, and what they run on.

Owns: what these verbs print; ``memcoord.testbed.machines`` does the work.
"""

import asyncio
from typing import Any

import msgspec

from memcoord.testbed.machines import accelerator


def probe_command(kernel: str, initrd: str) -> tuple[dict[str, Any], list[str]]:
    """The accelerator that works here, as an object and as lines."""
    found = asyncio.run(accelerator.probe(kernel, initrd))
    return msgspec.to_builtins(found), [f"{found.accelerator}: {found.why}"]
