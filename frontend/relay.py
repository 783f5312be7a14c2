"""A domain's doorbells over ZeroMQ, where its rings cannot be slept on together.

Owns: one DEALER to the hypervisor's ``doorbell.ipc``, and the thread that carries bells between the
socket and the domain: the compiled half rings an eventfd and sleeps on a futex, as without a relay.

  to the hypervisor   eventfd (rung by guest.c)  -> empty message
  to the domain       empty message              -> futex word ``guest_bell``

Rules: make the relay before the domain, ``start`` it once the domain's memory is mapped, and
``stop`` it before the domain closes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import zmq

from hypervisor.public.errors import InternalError, Status, error_of

#: Bells coalesce, so a short queue loses nothing.
QUEUE_MESSAGES_MAX = 64
JOIN_S = 5.0


def _eventfd() -> int:
    try:
        return os.eventfd(0, os.EFD_CLOEXEC)
    except OSError:
        raise error_of(Status.EKERNEL, "the doorbell's relay") from None


class ZmqRelay:
    """Carry the doorbells of one domain to and from ``endpoint``.

    ``doorbell_id``: the identity, of ASCII characters, that the hypervisor handed over at attach.
    InternalError when the kernel has no file descriptor left.
    """

    def __init__(self, endpoint: str, doorbell_id: str) -> None:
        #: What the domain rings instead of the hypervisor's eventfd; the domain closes it.
        self.bell_fd = _eventfd()
        try:
            self._stop_fd = _eventfd()
        except BaseException:
            os.close(self.bell_fd)
            raise
        self._context = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.setsockopt(zmq.LINGER, 0)
        self._dealer.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES_MAX)
        self._dealer.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES_MAX)
        self._dealer.setsockopt(zmq.IDENTITY, doorbell_id.encode())
        self._dealer.connect(endpoint)
        self._thread: threading.Thread | None = None

    def start(self, ring_guest: Callable[[], None]) -> None:
        """Begin; the first message makes the domain known to the hypervisor's socket."""
        self._dealer.send(b"")
        self._thread = threading.Thread(
            target=self._run, args=(ring_guest,), name="doorbell-relay", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the socket; InternalError when the thread does not end."""
        os.eventfd_write(self._stop_fd, 1)
        if self._thread is not None:
            self._thread.join(JOIN_S)
            if self._thread.is_alive():
                raise InternalError("the doorbell relay does not stop")
        self._dealer.close(0)
        self._context.term()
        os.close(self._stop_fd)

    def _run(self, ring_guest: Callable[[], None]) -> None:
        poller = zmq.Poller()
        poller.register(self._dealer, zmq.POLLIN)
        poller.register(self.bell_fd, zmq.POLLIN)
        poller.register(self._stop_fd, zmq.POLLIN)
        while True:
            ready = {source for source, _ in poller.poll()}
            if self._stop_fd in ready:
                return
            if self.bell_fd in ready:
                os.eventfd_read(self.bell_fd)
                self._send()
            if self._dealer in ready:
                self._drain()
                ring_guest()

    def _send(self) -> None:
        try:
            self._dealer.send(b"", zmq.NOBLOCK)
        except zmq.Again:  # the queue is full of bells already
            return

    def _drain(self) -> None:
        for _ in range(QUEUE_MESSAGES_MAX):
            try:
                self._dealer.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
