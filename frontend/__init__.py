"""Guest side: what runs inside a domain.

``attach(path)`` joins a hypervisor; everything else hangs off the ``Domain`` it returns. Importing
this package costs next to nothing, and neither it nor attaching loads zmq, numba or numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hypervisor.public  # noqa: F401 (it says what to do where nothing is compiled)
from frontend.attach import attach

if TYPE_CHECKING:
    from frontend.domain import Domain

__all__ = ["Domain", "attach"]


def __getattr__(name: str) -> Any:
    if name == "Domain":
        from frontend.domain import Domain

        return Domain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
