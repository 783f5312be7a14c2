"""Who may become a domain, and as what: names, sizes, one-time tokens.

Owns: the checks of an ``AttachRequest``, and the names whose token was used. Called by the main
loop.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import socket

from hypervisor.config import DomainConfig, HypervisorConfig, attach_token
from hypervisor.domains import DomainTable
from hypervisor.public.constants import MechanismId
from hypervisor.public.errors import AttachRefused
from hypervisor.public.messages import SO_PEERPIDFD, AttachRequest
from hypervisor.public.settings import MECHANISMS, check_name
from hypervisor.public.units import AREA_FRAMES, MAX_AREAS

#: Domains of one process that are not in the configuration: one process must not take the table.
DOMAINS_PER_PROCESS_MAX = 16


class Admission:
    """The rules of ``config`` for those that would join ``domains``."""

    def __init__(self, config: HypervisorConfig, domains: DomainTable) -> None:
        self._config, self._domains = config, domains
        self._known = {domain.name: domain for domain in config.domains}
        self.spent: set[str] = set()  # names whose one-time token was used

    def config_of(self, request: AttachRequest, pid: int) -> DomainConfig:
        """What the domain that asks is to be; AttachRefused says why it is none."""
        known = self._known.get(request.name)
        if known is not None:
            self._check_token(request)
            if request.maxmem_frames not in (0, known.maxmem_frames):
                raise AttachRefused(
                    "maxmem", f"{request.name} is configured with {known.maxmem_frames} frames"
                )
            return known
        if not self._config.open_attach:
            raise AttachRefused(
                "unknown-domain", f"{request.name!r} is not in the configuration of this run"
            )
        problem = check_name(request.name)
        if problem:
            raise AttachRefused("bad-name", problem)
        if self._domains.count_of(pid) >= DOMAINS_PER_PROCESS_MAX:
            raise AttachRefused(
                "process-full",
                f"process {pid} has {DOMAINS_PER_PROCESS_MAX} domains, the most of one process "
                "that the configuration does not name",
            )
        if not AREA_FRAMES <= request.maxmem_frames <= MAX_AREAS * AREA_FRAMES:
            raise AttachRefused("maxmem", f"must be {AREA_FRAMES} to {MAX_AREAS * AREA_FRAMES}")
        mechanism = request.mechanism or MECHANISMS[MechanismId.DIRECT]
        if mechanism not in MECHANISMS:
            raise AttachRefused("mechanism", f"must be one of {', '.join(MECHANISMS)}")
        return DomainConfig(
            name=request.name,
            maxmem_frames=request.maxmem_frames,
            boot_frames=0,
            target_frames=request.maxmem_frames,
            mechanism=mechanism,
        )

    def is_launched(self, name: str) -> bool:
        """Whether a launcher starts the domain of this name, and none else can be it."""
        return bool(self._config.attach_secret) and name in self._known

    def _check_token(self, request: AttachRequest) -> None:
        """AttachRefused unless the request brings the token of its name, never used before."""
        secret = self._config.attach_secret
        if not secret:
            return
        right = attach_token(secret, request.name)
        if not hmac.compare_digest(request.token.encode(), right.encode()):
            raise AttachRefused(
                "token", f"{request.name!r} is for the domain that the launcher gave its token to"
            )
        if request.name in self.spent:
            raise AttachRefused("token", f"the token of {request.name!r} was used before")


def pidfd_of(pid: int, connection: socket.socket) -> int:
    """A pidfd of the process that connected, -1 where it has none; AttachRefused when it ended."""
    with contextlib.suppress(OSError):
        return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    try:  # an older kernel
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise AttachRefused("ended", f"process {pid} connected and ended") from None
    except OSError:  # of another PID namespace
        return -1
