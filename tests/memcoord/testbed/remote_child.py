"""A child that does what a test of ``Remote`` needs."""

from __future__ import annotations

import os
import time

from memcoord.testbed.runs.remote import operation, serve


class Answering:
    """Operations, and one method that is none."""

    @operation
    def echo(self, value: object) -> object:
        return value

    @operation
    def zeroes(self, size: int) -> bytes:
        return bytes(size)

    @operation
    def sleep(self, for_s: float) -> None:
        time.sleep(for_s)

    @operation
    def fail(self) -> None:
        raise ValueError("told to fail")

    @operation
    def unspeakable(self) -> object:
        return object()

    @operation
    def end(self, code: int) -> None:
        os._exit(code)

    @operation
    def read(self, fds: list[int]) -> list[str]:
        return [os.read(fd, 64).decode() for fd in fds]

    @operation
    def stdin(self) -> str:
        return os.read(0, 64).decode()

    def hidden(self) -> None:
        raise AssertionError


if __name__ == "__main__":
    serve(Answering())
