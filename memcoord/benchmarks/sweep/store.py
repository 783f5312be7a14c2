"""The results of a sweep: a file per cell, whole or not there.

Owns: a directory of ``KEY.json``. A file is written beside its name and renamed, and carries a
digest of its content. So a sweep, or a machine, that is killed at any moment leaves no half result
that would be counted: a file whose digest does not match is as good as missing.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.public.documents import UNREADABLE

FOLDER = "cells"


class Store:
    """The results below ``directory``, which is made when missing; OSError when it cannot be."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)

    def read(self, key: str) -> dict[str, Any] | None:
        """The result of the cell ``key``; None when there is none, or not a whole one."""
        try:
            record = msgspec.json.decode(self._path(key).read_bytes(), type=dict[str, Any])
        except (OSError, *UNREADABLE):
            return None
        result = record.get("result")
        if not isinstance(result, dict) or record.get("digest") != _digest(key, result):
            return None
        return result

    def write(self, key: str, result: dict[str, Any]) -> None:
        """Keep ``result``; the file appears at once or not at all."""
        # NaN becomes null before the digest is taken, as it is when read.
        plain = msgspec.json.decode(msgspec.json.encode(result))
        record = {"key": key, "digest": _digest(key, plain), "result": plain}
        write_whole(self._path(key), msgspec.json.encode(record))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def write_whole(path: Path, data: bytes) -> None:
    """Replace the content of ``path`` by ``data``, or leave it as it was; OSError.

    The draft has a name of this process: another sweep may be at work in the same directory.
    """
    half = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with half.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except OSError:
        half.unlink(missing_ok=True)
        raise


def _digest(key: str, result: dict[str, Any]) -> str:
    return hashlib.sha256(key.encode() + msgspec.json.encode(result, order="sorted")).hexdigest()
