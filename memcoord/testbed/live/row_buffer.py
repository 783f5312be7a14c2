"""Rows on their way to a file, in memory that outlives its process: none is lost, none comes twice.

Owns: the layout of that memory: a word that says which of two states counts, the states, and text.
A state says how much of the file and how much of the text belongs to the stream, and what the
writer wants to know of it (``words``). Rows and words count together, from the moment in which the
first word is changed: a process can be killed between any two instructions.
Rules: one writer at a time. The file is written in large parts, by this alone.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

import numpy as np

TEXT_BYTES = 1 << 20
_FILE_BYTES, _TEXT_BYTES, _WORDS = range(3)  # of a state


class RowBuffer:
    """Append to the file ``path``; go on with the memory ``fd`` when there is one, else -1.

    ``words``: how many 64-bit words the writer has. OSError when the file cannot be opened.
    """

    def __init__(self, path: Path, words: int, fd: int = -1) -> None:
        is_new = fd < 0
        states_bytes = 8 * (1 + 2 * (_WORDS + words))
        self._text_at = -(-states_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        size = self._text_at + TEXT_BYTES
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        if is_new:
            fd = os.memfd_create("memcoord-rows", os.MFD_CLOEXEC)
            os.ftruncate(fd, size)
        self.fd = fd
        self._map = mmap.mmap(fd, size)
        numbers = np.frombuffer(self._map, np.uint64, 1 + 2 * (_WORDS + words))
        self._which, self._states = numbers[:1], numbers[1:].reshape(2, -1)
        if is_new:
            self._states[0, _FILE_BYTES] = os.fstat(self._file).st_size
        else:
            os.ftruncate(self._file, int(self._state[_FILE_BYTES]))  # a part may follow it

    @property
    def _state(self) -> np.ndarray:
        state: np.ndarray = self._states[int(self._which[0])]
        return state

    @property
    def words(self) -> np.ndarray:
        """What the writer knows of the rows so far; to be read only."""
        return self._state[_WORDS:]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever written, by this process or another one."""
        return not self._state[_FILE_BYTES] and not self._state[_TEXT_BYTES]

    def append(self, rows: bytes, changed: dict[int, int]) -> None:
        """Whole rows; from now on they count, and the words of these numbers have these values."""
        if int(self._state[_TEXT_BYTES]) + len(rows) > TEXT_BYTES:
            self.flush()
        used = int(self._state[_TEXT_BYTES])
        at = self._text_at + used
        self._map[at : at + len(rows)] = rows
        self._change({_TEXT_BYTES: used + len(rows)} | {_WORDS + n: v for n, v in changed.items()})

    def flush(self) -> None:
        """Write what waits. What a full disk does not take is lost, and nothing else."""
        state = self._state
        waits, before = int(state[_TEXT_BYTES]), int(state[_FILE_BYTES])
        text, written = self._map[self._text_at : self._text_at + waits], 0
        with contextlib.suppress(OSError):
            while written < waits:
                written += os.write(self._file, text[written:])
        if written < waits:
            written = 0
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
        self._change({_FILE_BYTES: before + written, _TEXT_BYTES: 0})

    def _change(self, changed: dict[int, int]) -> None:
        other = 1 - int(self._which[0])
        state = self._states[other]
        state[:] = self._states[1 - other]
        for number, value in changed.items():
            state[number] = value
        self._which[0] = other

    def close(self) -> None:
        """Write what waits, and close everything."""
        self.flush()
        del self._which, self._states
        self._map.close()
        os.close(self.fd)
        os.close(self._file)
