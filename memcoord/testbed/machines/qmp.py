"""Calls to a running QEMU over QMP, each of them bounded, each answer checked.

Owns: ``Monitor``, one connection to one QEMU, and ``QmpFailed``, the one way in which a call fails.
Rules: QEMU runs a guest that nobody trusts, so an answer is a value of unknown shape until
``_integer`` or ``_table`` has seen it. No call waits longer than its limit. A connection that was
silent once is not used again: its late answers would be taken for those of later calls. ``connect``
makes a new one, with a new client, because the socket may be there before QEMU listens. Events wake
whoever waits for ``news``; the last EVENTS_MAX are kept and the rest are counted. Called by
``pilot``, which leads one machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError

from hypervisor.public.errors import MemcoordError
from memcoord.testbed.machines.command_line import BALLOON, plugged_path

#: Of a new connection: all tries together, one try, and from one to the next.
CONNECT_S, TRY_S, NAP_S = 10.0, 2.0, 0.02
#: Of one call, and of letting a connection go.
CALL_S, CLOSE_S = 2.0, 1.0
ANSWER_BYTES_MAX = 1 << 18
EVENTS_MAX, EVENT_CHARACTERS_MAX = 64, 64
#: What QEMU's own words are cut to in an error.
WORDS_MAX = 200
COUNT_MAX = 1 << 64


class QmpTrouble(StrEnum):
    """Why a call has no answer."""

    ABSENT = "does not listen"
    SILENT = "does not answer"
    GONE = "has hung up"
    REFUSED = "refuses"
    NONSENSE = "answers nonsense"


class QmpFailed(MemcoordError):
    """``call`` to the QEMU of ``name`` has no answer; ``said`` are QEMU's words, where it has any.

    After REFUSED the connection is as good as before, after any other trouble ``connect`` again.
    """

    def __init__(self, name: str, call: str, trouble: QmpTrouble, said: str = "") -> None:
        self.name, self.call, self.trouble, self.said = name, call, trouble, said[:WORDS_MAX]
        super().__init__(f"{name}: QEMU {trouble}: {call}" + (f": {self.said}" if said else ""))


class Event(NamedTuple):
    """What QEMU says unasked; ``at_s`` on the loop's clock."""

    at_s: float
    name: str
    data: Mapping[str, Any]


class Monitor:
    """The QEMU of machine ``name``, at the socket ``path``."""

    def __init__(self, path: Path, name: str, *, call_s: float = CALL_S) -> None:
        self._path, self._name, self._call_s = path, name, call_s
        self._client: QMPClient | None = None
        self.events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self.event_count = 0
        self.news = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        """Whether the last call left a connection that can be used."""
        return self._client is not None

    async def connect(self, limit_s: float = CONNECT_S) -> None:
        """Connect anew and wait for QEMU's greeting; QmpFailed ABSENT or SILENT."""
        await self.close()
        loop = asyncio.get_running_loop()
        until_s, trouble = loop.time() + limit_s, QmpTrouble.ABSENT
        while (left_s := until_s - loop.time()) > 0:
            client = QMPClient(self._name, readbuflen=ANSWER_BYTES_MAX)
            client.logger.setLevel(logging.CRITICAL + 1)
            client.register_listener(EventListener(event_filter=self._hear))
            try:
                await asyncio.wait_for(client.connect(str(self._path)), min(TRY_S, left_s))
            except TimeoutError:
                trouble = QmpTrouble.SILENT
                await _let_go(client)
            except (QMPError, OSError, EOFError):  # not there yet, or nobody that speaks QMP
                await _let_go(client)
                await asyncio.sleep(NAP_S)
            except BaseException:
                await _let_go(client)
                raise
            else:
                self._client = client
                return
        raise QmpFailed(self._name, "connect", trouble)

    async def close(self) -> None:
        """Let the connection go, within CLOSE_S."""
        client, self._client = self._client, None
        if client is not None:
            await _let_go(client)

    async def call(self, command: str, **arguments: object) -> object:
        """Any command; its answer is of unknown shape. QmpFailed."""
        client = self._client
        if client is None:
            raise QmpFailed(self._name, command, QmpTrouble.GONE)
        try:
            return await asyncio.wait_for(client.execute(command, arguments or None), self._call_s)
        except ExecuteError as error:
            raise QmpFailed(self._name, command, QmpTrouble.REFUSED, str(error)) from None
        except TimeoutError:
            trouble, said = QmpTrouble.SILENT, ""
        except (QMPError, OSError, EOFError, ValueError, TypeError, KeyError) as error:
            trouble, said = QmpTrouble.GONE, str(error)
        await self.close()
        raise QmpFailed(self._name, command, trouble, said)

    # What a backend needs.

    async def status(self) -> str:
        """The state of the machine in QEMU's words, as "running"."""
        answer = self._table("query-status", await self.call("query-status"))
        state = answer.get("status")
        if not isinstance(state, str):
            raise self._nonsense("query-status", state)
        return state[:EVENT_CHARACTERS_MAX]

    async def set_balloon(self, size_bytes: int) -> None:
        """Ask the guest to keep so much of its base; the balloon takes the rest."""
        await self.call("balloon", value=size_bytes)

    async def balloon_size(self) -> int:
        """Bytes of the base that are not in the balloon."""
        answer = self._table("query-balloon", await self.call("query-balloon"))
        return self._integer("query-balloon", answer.get("actual"))

    async def poll_statistics(self, every_s: int) -> None:
        """Have the guest's statistics read so often; 0: never."""
        name = "guest-stats-polling-interval"
        await self.call("qom-set", path=BALLOON, property=name, value=every_s)

    async def statistics(self) -> tuple[int, dict[str, int]]:
        """When they were read, in seconds since 1970, 0 for never; the values as they came."""
        what = "guest-stats"
        answer = self._table(what, await self.call("qom-get", path=BALLOON, property=what))
        at = self._integer(what, answer.get("last-update"))
        values = self._table(what, answer.get("stats"))
        known = {name: value for name, value in values.items() if _is_count(value)}
        return at, known

    async def set_plugged(self, number: int, size_bytes: int) -> None:
        """Ask virtio-mem device ``number`` for a size."""
        path = plugged_path(number)
        await self.call("qom-set", path=path, property="requested-size", value=size_bytes)

    async def plugged_size(self, number: int) -> int:
        """Bytes that are plugged now in virtio-mem device ``number``."""
        answer = await self.call("qom-get", path=plugged_path(number), property="size")
        return self._integer("qom-get size", answer)

    def _hear(self, message: Message) -> bool:
        """Keep an event, bounded; never queue it in the client, whose queue has no bound."""
        name, data = message.get("event"), message.get("data")
        self.event_count += 1
        if isinstance(name, str):
            kept = data if isinstance(data, dict) and len(str(data)) < WORDS_MAX else {}
            now_s = asyncio.get_running_loop().time()
            self.events.append(Event(now_s, name[:EVENT_CHARACTERS_MAX], kept))
        self.news.set()
        return False

    def _table(self, call: str, answer: object) -> dict[str, Any]:
        if not isinstance(answer, dict):
            raise self._nonsense(call, answer)
        return answer

    def _integer(self, call: str, answer: object) -> int:
        if not isinstance(answer, int) or not _is_count(answer):
            raise self._nonsense(call, answer)
        return answer

    def _nonsense(self, call: str, answer: object) -> QmpFailed:
        return QmpFailed(self._name, call, QmpTrouble.NONSENSE, f"{answer!r:.{WORDS_MAX}}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < COUNT_MAX


async def _let_go(client: QMPClient) -> None:
    """Disconnect, whatever state it is in; what went wrong was said by the call that failed."""
    with contextlib.suppress(Exception):
        await asyncio.wait_for(client.disconnect(), CLOSE_S)
