"""The token that a scrape must send: one file of the user's, which Prometheus is pointed to.

Owns: reading it, and making it where there is none. It outlives a reader, so that a configuration
of Prometheus stays right.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from hypervisor.public.errors import ConfigError

TOKEN_BYTES, TOKEN_CHARACTERS_MIN, TOKEN_CHARACTERS_MAX = 24, 16, 1024
KEY = "--token-file"


def token_of(path: Path) -> str:
    """The token in ``path``, made with mode 0600 where there is none.

    ConfigError when it cannot be read or made, or is none that can be sent in a header.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            _make(path)
        with path.open("rb") as file:
            data = file.read(TOKEN_CHARACTERS_MAX + 1)
    except OSError as error:
        raise ConfigError(KEY, f"{path}: {error.strerror or error}") from None
    text = data.strip().decode("ascii", "replace")
    fits = TOKEN_CHARACTERS_MIN <= len(text) <= TOKEN_CHARACTERS_MAX
    if not (fits and text.isascii() and text.isprintable()):
        wanted = f"{TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX} printable ASCII characters"
        raise ConfigError(KEY, f"{path} has no token of {wanted}; remove it, and one is made")
    return text


def _make(path: Path) -> None:
    """Another reader may make it at the same time: each sees the whole of one."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(TOKEN_BYTES)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(draft, flags, 0o600), "w", encoding="ascii") as file:
            file.write(f"{secrets.token_urlsafe(TOKEN_BYTES)}\n")
        os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
