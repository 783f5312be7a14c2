"""What a hypervisor has from its keeper, and gives it: the hypervisor's half of keeping.

Owns: ``Held``. Names of what is kept:
  state                          what Python knows (``saved.py``)
  attach.sock, control.ipc, ...  listening sockets: who connects while no hypervisor serves, waits
  peer/DOMID/connection, pidfd   a domain's connection, and its process
  init/NAME                      of the PID namespace that a launched domain is or was in
  anything else                  the backend's: the caller of ``keep`` and ``taken`` says
Rules: the hypervisor's main thread only. What is handed to a domain is kept first. A hypervisor
without a keeper has a ``Held`` all the same, which keeps nothing and remembers nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from hypervisor.door import listen
from hypervisor.keeping.channel import (
    Begin,
    Born,
    Channel,
    Drop,
    Ending,
    Keep,
    Message,
    Serving,
    failed,
)
from hypervisor.keeping.saved import Saved, decode, encode
from hypervisor.keeping.state_file import StateFile
from hypervisor.public.errors import InternalError, MemcoordError

STATE = "state"
#: What the keeper gets to say what it holds; it has said so before the hypervisor was forked.
BEGIN_S = 60.0


class Held:
    """Made with the end of a channel, or without; ``close`` it last.

    ``begin``: as which hypervisor this one begins. ``saved``: what the one before knew, or None.
    InternalError when a keeper does not say what it holds, or that cannot be read.
    """

    def __init__(self, channel: Channel | None = None) -> None:
        self._channel = channel
        self._fds: dict[str, int] = {}
        self.begin = Begin()
        self.is_serving = False
        self.saved: Saved | None = None
        self._state: StateFile | None = None
        if channel is None:
            return
        self.begin = self._hear(channel)
        is_new = STATE not in self._fds
        self._state = StateFile(self._fds.pop(STATE, -1))
        if is_new:
            self.keep(STATE, self._state.fd)
        written = self._state.read()
        self.saved = decode(written) if written else None

    def _hear(self, channel: Channel) -> Begin:
        channel.send(Born(os.getpid()))
        while (heard := channel.receive(BEGIN_S)) is not None:
            message, fds = heard
            if isinstance(message, Keep):
                self._fds.update(zip(message.names, fds, strict=True))
            elif isinstance(message, Begin):
                return message
        raise InternalError("the keeper ended before it said what it holds")

    @property
    def is_kept(self) -> bool:
        """Whether there is a keeper."""
        return self._channel is not None

    @property
    def watch_fd(self) -> int:
        """Its end is the keeper's end; -1 without a keeper."""
        return -1 if self._channel is None else self._channel.fileno()

    def keep(self, name: str, fd: int) -> None:
        """Have ``fd`` outlive this process, under ``name``; it stays open here."""
        self._tell(Keep((name,)), [fd])

    def keep_below(self, name: str, fds: Mapping[str, int]) -> None:
        """Have all of ``fds`` outlive this process, or none of them: each below ``name``."""
        self._tell(Keep(tuple(f"{name}/{one}" for one in fds)), tuple(fds.values()))

    def drop(self, name: str) -> None:
        """Let go of what is kept under ``name`` and below."""
        self._tell(Drop(name))

    def take(self, name: str) -> int:
        """The file descriptor kept under ``name``, the caller's from now on; -1 for none."""
        return self._fds.pop(name, -1)

    def take_below(self, name: str) -> dict[str, int]:
        """What is kept below ``name``, by the rest of its name; the caller's from now on."""
        found = [one for one in self._fds if one.startswith(f"{name}/")]
        return {one.removeprefix(f"{name}/"): self._fds.pop(one) for one in found}

    def listen(self, path: Path, kind: socket.SocketKind) -> socket.socket:
        """The socket that listens at ``path``, kept; ConfigError when the path cannot be bound."""
        fd = self.take(path.name)
        if fd >= 0:
            return socket.socket(fileno=fd)
        made = listen(path, kind)
        self.keep(path.name, made.fileno())
        return made

    def save(self, saved: Saved) -> None:
        """Remember ``saved`` for the next hypervisor, from now on."""
        if self._state is not None:
            self._state.write(encode(saved))

    def serving(self) -> None:
        """Tell the keeper that this hypervisor serves."""
        self.is_serving = True
        self._tell(Serving())

    def ending(self) -> None:
        """Tell the keeper that there is to be no other hypervisor."""
        self._tell(Ending())

    def failed(self, error: MemcoordError) -> None:
        """Tell the keeper why neither this hypervisor nor another can serve."""
        self._tell(failed(error))

    def close(self) -> None:
        """Close what nobody took, and the channel."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        if self._state is not None:
            self._state.close()
            self._state = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _tell(self, message: Message, fds: Sequence[int] = ()) -> None:
        if self._channel is None:
            return
        try:
            self._channel.send(message, fds)
        except TimeoutError:
            raise InternalError("the keeper does not read: is it stopped?") from None
        except OSError:  # it has ended, which the main loop is about to hear
            return
