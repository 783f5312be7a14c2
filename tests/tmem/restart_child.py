"""A process that works on a pool until it is killed, and the log by which its successor goes on.

``Log`` is what a guest and its ring are in the hypervisor: it outlives the process and knows which
operations were answered, and with what, and the one that was asked and not answered yet.
"""

from __future__ import annotations

import mmap
import random
from typing import Any, NamedTuple

import numpy as np

from tmem import Code, PoolFlag, Tmem, serve
from tmem.codes import Op
from tmem.record import RECORD

PAGES_OF_OBJECT, OBJECTS = 64, 3
CLIENTS = 2
AREAS = 3
UUID = (7, 7)
PERSISTENT, SECOND, EPHEMERAL, SHARED = range(4)  # slots of a client
FLAGS = {
    PERSISTENT: PoolFlag.PERSISTENT,
    SECOND: PoolFlag.PERSISTENT,
    EPHEMERAL: PoolFlag.EPHEMERAL,
    SHARED: PoolFlag.SHARED,
}
PUT, GET, FLUSH, FLUSH_OBJECT, DESTROY, NEW, COMPRESS, SHRINK, GROW, CLOSE, OPEN = range(11)
WEIGHTS = (60, 20, 8, 1, 1, 0, 4, 3, 3, 0.3, 0)
NOT_ANSWERED = -(1 << 40)
Key = tuple[int, int, int, int]  # client, slot, object, index


class Row(NamedTuple):
    """One operation and its answer; ``seed`` is what the page holds, or the operation's amount."""

    op: int
    client: int = 0
    slot: int = 0
    of: int = 0
    index: int = 0
    seed: int = 0
    answer: int = NOT_ANSWERED


def shared_array(count: int, dtype: Any) -> np.ndarray:
    """Memory of zeroes that a fork shares."""
    size = max(count * np.dtype(dtype).itemsize, 1)
    return np.frombuffer(mmap.mmap(-1, size), dtype)[:count]


def page_of(seed: int) -> np.ndarray:
    """A page for a seed: of zeroes, of words that do not compress, or of few words."""
    if seed == 0:
        return np.zeros(512, np.uint64)
    if seed % 2:
        words = np.arange(512, dtype=np.uint64) + np.uint64(seed)
        return words * np.uint64(0x9E3779B97F4A7C15) ^ (words << np.uint64(29))
    page = np.full(512, seed, np.uint64)
    page[: seed % 97] += np.arange(seed % 97, dtype=np.uint64)
    return page


class Log:
    """Rows of operations in shared memory."""

    def __init__(self, most: int) -> None:
        self.rows = shared_array(most * len(Row._fields), np.int64).reshape(most, -1)
        #: rows asked; the process has recovered, and how often; the address of nothing
        self.words = shared_array(4, np.int64)

    @property
    def count(self) -> int:
        return int(self.words[0])

    def ask(self, row: Row) -> None:
        self.rows[self.count] = row
        self.words[0] += 1

    def answer(self, code: int) -> None:
        self.rows[self.count - 1, -1] = code

    def row(self, number: int) -> Row:
        return Row(*self.rows[number].tolist())


class Model:
    """The persistent pages that must be there, from the rows that were answered."""

    def __init__(self) -> None:
        self.pages: dict[Key, int] = {}
        self.done = 0

    def follow(self, log: Log) -> None:
        """Every row that is new and answered."""
        while self.done < log.count and log.row(self.done).answer != NOT_ANSWERED:
            self.apply(log.row(self.done))
            self.done += 1

    def apply(self, row: Row) -> None:
        key = row.client, row.slot, row.of, row.index
        if row.op == PUT and row.slot in (PERSISTENT, SECOND):
            if row.answer == Code.DONE:
                self.pages[key] = row.seed
            else:
                self.pages.pop(key, None)
        elif row.op == FLUSH:
            self.pages.pop(key, None)
        elif row.op in (FLUSH_OBJECT, DESTROY, CLOSE):
            width = {FLUSH_OBJECT: 3, DESTROY: 2, CLOSE: 1}[row.op]
            gone = [name for name in self.pages if name[:width] == key[:width]]
            for name in gone:
                del self.pages[name]


class Worker:
    """The process: recovers the pool, checks it, and works."""

    def __init__(
        self, state: np.ndarray, slab: np.ndarray, log: Log, options: dict[str, Any], first: bool
    ) -> None:
        self.log = log
        self.tmem = Tmem(
            max_areas=AREAS,
            slab=slab.ctypes.data,
            seed=1,
            state_memory=(state.ctypes.data, state.nbytes),
            recover=not first,
            **options,
        )
        if first:
            self._begin()

    def _begin(self) -> None:
        for area in range(AREAS):
            self.tmem.grow(area)
        for client in range(CLIENTS):
            self._open(client)

    def _open(self, client: int) -> int:
        self.tmem.open_client(client)
        self.tmem.authorise(client, UUID)
        _, pools = self.tmem.get_pools(client)
        for slot in sorted(set(FLAGS) - {entry.slot for entry in pools}):
            self.tmem.new_pool(client, PoolFlag.VERSION | FLAGS[slot], UUID)
        return 0

    def check(self, model: Model) -> None:
        """Every page that was acknowledged is there, but the one named by the row not answered."""
        self.tmem.validate()
        page, open_row = np.zeros(512, np.uint64), self.open_row()
        for (client, slot, of, index), seed in model.pages.items():
            if open_row is not None and self._names(open_row, (client, slot, of, index)):
                continue
            code = self.tmem.peek(client, slot, (of, 0, 9), index, page)
            assert code == Code.DONE, f"lost {client, slot, of, index}: {code}, under {open_row}"
            assert np.array_equal(page, page_of(seed)), f"wrong {client, slot, of, index}"
        persistent = int(self.tmem.clients["persistent_pages"].sum())
        extra = 1 if open_row is not None and open_row.op == PUT else 0
        assert persistent <= len(model.pages) + extra, "a page that was flushed is back"

    def open_row(self) -> Row | None:
        """The operation that was asked and not answered."""
        last = self.log.row(self.log.count - 1) if self.log.count else None
        return last if last is not None and last.answer == NOT_ANSWERED else None

    @staticmethod
    def _names(row: Row, key: Key) -> bool:
        width = {PUT: 4, FLUSH: 4, FLUSH_OBJECT: 3, DESTROY: 2, NEW: 2, CLOSE: 1, OPEN: 1}
        full = row.client, row.slot, row.of, row.index
        return row.op in width and full[: width[row.op]] == key[: width[row.op]]

    def go_on(self) -> None:
        """Execute again what was not answered."""
        row = self.open_row()
        if row is not None:
            self.log.answer(self.execute(row, again=True))

    def work(self, seed: int, rows: int) -> None:
        """So many random operations, each logged before and after."""
        rng = random.Random(seed)
        self._complete()
        for _ in range(rows):
            row = self._random_row(rng)
            self._do(row)
            if row.op in (DESTROY, CLOSE):
                self._complete()

    def _complete(self) -> None:
        """Open what is closed: clients and pools."""
        for client in range(CLIENTS):
            count, pools = self.tmem.get_pools(client)
            if count < 0:
                self._do(Row(OPEN, client))
            elif SECOND not in {entry.slot for entry in pools}:
                self._do(Row(NEW, client, SECOND, seed=self.log.count))

    def _do(self, row: Row) -> None:
        self.log.ask(row)
        self.log.answer(self.execute(row))

    def _random_row(self, rng: random.Random) -> Row:
        (op,) = rng.choices(range(len(WEIGHTS)), WEIGHTS)
        amount = {SHRINK: 0, GROW: rng.randrange(AREAS), COMPRESS: rng.randrange(40)}
        return Row(
            op,
            rng.randrange(CLIENTS),
            SECOND if op == DESTROY else rng.randrange(len(FLAGS)),
            rng.randrange(OBJECTS),
            rng.randrange(PAGES_OF_OBJECT),
            amount.get(op, rng.choice((0, rng.randrange(40), rng.randrange(1 << 30)))),
        )

    def _new_pool(self, row: Row, again: bool) -> int:
        record = np.zeros(1, RECORD)
        record["op"], record["seq"] = Op.NEW_POOL, row.seed
        record["arg"][0, 0] = PoolFlag.VERSION | FLAGS[row.slot]
        how = serve.AGAIN if again else 0
        address = int(record.ctypes.data)
        return int(serve.py_execute(self.tmem.state_address, address, 0, row.client, how))

    def execute(self, row: Row, again: bool = False) -> int:
        """The answer to a row."""
        tmem, name = self.tmem, (row.client, row.slot, (row.of, 0, 9), row.index)
        if row.op == PUT:
            return tmem.put(*name, page_of(row.seed))
        if row.op == GET:
            return tmem.get(*name, np.zeros(512, np.uint64))
        if row.op == FLUSH:
            return tmem.flush_page(*name)
        if row.op == FLUSH_OBJECT:
            return tmem.flush_object(*name[:3])
        if row.op == DESTROY:
            return tmem.destroy_pool(row.client, row.slot)
        if row.op == NEW:
            slot = self._new_pool(row, again)
            assert slot == row.slot, f"a second pool: {slot}"
            return slot
        if row.op == CLOSE:
            return tmem.close_client(row.client)
        if row.op == OPEN:
            return self._open(row.client)
        if row.op == COMPRESS:
            return tmem.compress_step(row.seed)
        return tmem.shrink() if row.op == SHRINK else tmem.grow(row.seed)
