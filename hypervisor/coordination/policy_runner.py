"""What a policy that gives no plan is reported by; the thread a simulated policy runs in.

Owns: ``Failed``, ``Stalled`` and ``ThreadRunner``, the deadline of the simulator's policies. Python
cannot stop a thread. A call past its deadline is left to finish in its daemon thread and its answer
is dropped. Until the thread has ended no other call is started, so there is never more than one
thread. A real hypervisor's policy has a process: ``hypervisor.coordination.policy_process``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Failed(Exception):
    """There is no plan; the text says what the policy did, as in "raised ValueError: ..."."""


class Loading(Failed):
    """It is being loaded for the first time, which is no fault."""


class Stalled(Failed):
    """The call, or an earlier call, has not ended within its deadline."""


class ThreadRunner:
    """Runs one call at a time in a daemon thread."""

    def __init__(self) -> None:
        self._running: threading.Thread | None = None

    def __call__(self, call: Callable[[], object], deadline_s: float) -> object:
        """What ``call`` returns or raises; Stalled when it takes longer than ``deadline_s``."""
        if self._running is not None and self._running.is_alive():
            raise Stalled("stalled: an earlier call has not come back")
        outcome: list[tuple[object, BaseException | None]] = []

        def work() -> None:
            try:
                outcome.append((call(), None))
            except BaseException as error:  # SystemExit in a policy must not pass for an answer
                outcome.append((None, error))

        self._running = threading.Thread(target=work, name="policy", daemon=True)
        self._running.start()
        self._running.join(deadline_s)
        if not outcome:
            raise Stalled(f"stalled: no plan within {deadline_s * 1000:.0f} ms")
        self._running = None
        result, error = outcome[0]
        if error is not None:
            raise error if isinstance(error, Exception) else RuntimeError(repr(error))
        return result
