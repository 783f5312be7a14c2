"""Guest side: what runs inside a domain.

``attach(path)`` joins a hypervisor; everything else hangs off the ``Domain`` it returns. Importing
this package loads neither zmq nor numba nor numpy, so a domain starts as fast as Python does.
"""

from frontend.attach import attach
from frontend.domain import Domain

__all__ = ["Domain", "attach"]
