"""What can go wrong, named for the situation.

Owns: the exception classes of every package and the mapping from C status codes to them. One base,
few leaves, typed fields. A message says what to do next. ``InternalError`` stands for a mistake of
this project, every other class for a situation that its user can change.
"""

from __future__ import annotations

from hypervisor.public.constants import Status as Status


class MemcoordError(Exception):
    """Base of every error of this project."""


class NoMemory(MemcoordError):
    """Nothing is left that this domain may have now. Free something, or raise its target."""

    def __init__(self, what: str, status: Status = Status.ENOMEM) -> None:
        self.status = status
        super().__init__(what)


class BadFrame(MemcoordError):
    """A frame or block was named that the domain was not given so; nothing was changed."""

    def __init__(self, frame: int, order: int, status: Status) -> None:
        self.frame, self.order, self.status = frame, order, status
        super().__init__(f"frame {frame}, order {order}: {_WHY_BAD.get(status, status.name)}")


class PeerGone(MemcoordError):
    """The other side (hypervisor or domain) died, closed, or does not answer in time."""


class WrongProcess(MemcoordError):
    """A domain is used by a forked child of its process; nothing was changed. Attach again."""


class RingBroken(MemcoordError):
    """A ring or shared region has contents that no correct peer writes; the domain is detached."""

    def __init__(self, what: str, status: Status) -> None:
        self.status = status
        super().__init__(f"{what}: {status.name}")


class AttachRefused(MemcoordError):
    """The hypervisor did not take this domain; ``code`` is one word, the message says why."""

    def __init__(self, code: str, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(f"attach refused ({code}): {reason}")


class ConfigError(MemcoordError):
    """A scenario, option or parameter is wrong; ``key`` names it."""

    def __init__(self, key: str, why: str) -> None:
        self.key, self.why = key, why
        super().__init__(f"{key}: {why}")


class DomainBusy(MemcoordError):
    """The domain that had this domid is not gone yet, or a reboot was not done in time.

    Its file keeps its memory: a process that shares the file holds the lock. Try again later.
    """

    def __init__(self, domid: int, name: str) -> None:
        self.domid, self.name = domid, name
        super().__init__(
            f"{name} (domain {domid}): its file keeps its memory; try later or end what has it open"
        )


class PolicyFault(MemcoordError):
    """A policy raised, stalled or answered nonsense; its last valid plan stays in force."""

    def __init__(self, policy: str, why: str) -> None:
        self.policy, self.why = policy, why
        super().__init__(f"policy {policy}: {why}")


class NotCompiled(MemcoordError, ImportError):
    """A compiled module is imported from a source checkout where nothing is compiled yet."""

    def __init__(self, module: str) -> None:
        super().__init__(
            f"{module} is not compiled: run `python -m pip install -e .` in the checkout"
        )


class InternalError(MemcoordError):
    """A broken invariant of ours. Please report it with the run directory."""


_WHY_BAD = {
    Status.EINDEX: "out of range or misaligned",
    Status.EORDER: "allocated with another order",
    Status.EDOUBLE: "free already",
    Status.ENEVER: "never handed out",
}


#: What EKERNEL may mean, and what to look at.
_REFUSED = "memory, a mapping or a file descriptor; see free memory, ulimit -v and -n, and maxmem"


def error_of(code: int, what: str, frame: int = -1, order: int = 0) -> MemcoordError:
    """The exception for a negative status of the C side, as a guest sees it.

    Unknown codes are InternalError. ``frame`` and ``order`` are a BadFrame's.
    """
    try:
        status = Status(code)
    except ValueError:
        return InternalError(f"{what}: unknown status {code}")
    if status in (Status.ENOMEM, Status.ETARGET):
        return NoMemory(f"{what}: {status.name}", status)
    if status in _WHY_BAD:
        return BadFrame(frame, order, status)
    if status in (Status.EGONE, Status.ETIMEOUT):
        return PeerGone(f"{what}: the hypervisor is gone or does not answer")
    if status in (Status.ERUNAWAY, Status.ETORN, Status.ELAYOUT):
        return RingBroken(what, status)
    if status == Status.EKERNEL:
        return InternalError(f"{what}: the kernel refused {_REFUSED}")
    return InternalError(f"{what}: {status.name}")
