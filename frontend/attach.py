"""How a process becomes a domain.

Owns: ``attach``, the function that a guest program starts with. Sockets, messages and the compiled
half are imported when it is called, so that a program which need not attach starts fast.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from frontend.domain import Domain


def attach(
    path: str | os.PathLike[str],
    name: str = "",
    maxmem_frames: int = 0,
    *,
    doorbell: str = "futex",
    timeout_s: float = 10.0,
    wait: bool = False,
) -> Domain:
    """Become a domain of the hypervisor at ``path``: a run directory, or its ``attach.sock``.

    Without ``name`` the domain is called ``vm`` and its pid. ``maxmem_frames`` 0 leaves the size to
    the hypervisor's configuration. ``wait``: the hypervisor may be starting still, so keep trying
    to connect; connecting and the answer together take at most ``timeout_s``.

    Raises PeerGone when no hypervisor listens or it does not answer, AttachRefused when it says no,
    RingBroken when what it hands over does not fit together.
    """
    from frontend.handshake import join

    return join(os.fspath(path), name, maxmem_frames, doorbell, timeout_s, wait)
