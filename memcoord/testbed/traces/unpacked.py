"""The bytes of a file of numbers, plain or packed by gzip, xz or zstd, block by block.

Owns: finding such a file and unpacking it. Its first bytes tell what it is packed with, not its
name. Nothing is held but a block. Every error is a ConfigError in one line that names the file.
"""

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import IO

from hypervisor.public.errors import ConfigError

GZIP_MAGIC = b"\x1f\x8b\x08"
XZ_MAGIC = b"\xfd7zXZ\x00"
ZSTD_MAGIC = b"(\xb5/\xfd"
MAGIC_BYTES = 6
#: Bytes of a file that are read at once; a row has two at least.
BLOCK_BYTES = 1 << 17
ZSTD_MISSING = "a .zst file needs one more package: pip install 'memcoord[zst]'"

Blocks = Callable[[], Iterator[bytes]]


def blocks_of_file(source: str, key: str) -> Blocks:
    """What reads the file ``source`` from its beginning; ``key``: the key of an error."""
    path = Path(source)

    def blocks() -> Iterator[bytes]:
        try:
            with path.open("rb") as file:
                yield from _unpacked(file)
        except (lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError) as error:
            raise ConfigError(key, f"{path.name}: damaged: {error}") from None
        except OSError as error:
            raise ConfigError(key, f"{source}: {error.strerror or error}") from None
        except ValueError as error:  # a name with a null byte
            raise ConfigError(key, f"{source!a}: {error}") from None
        except ModuleNotFoundError:
            raise ConfigError(key, f"{path.name}: {ZSTD_MISSING}") from None

    return blocks


def shipped_blocks(name: str) -> Blocks:
    """What reads a shipped file of data."""

    def blocks() -> Iterator[bytes]:
        with (resources.files("memcoord.testbed") / "data" / name).open("rb") as file:
            yield from _unpacked(file)

    return blocks


def blocks_of_bytes(data: bytes) -> Blocks:
    """What reads ``data``."""
    return lambda: _sliced(data)


def _sliced(data: bytes) -> Iterator[bytes]:
    for begin in range(0, len(data), BLOCK_BYTES):
        yield data[begin : begin + BLOCK_BYTES]


def _unpacked(file: IO[bytes]) -> Iterator[bytes]:
    magic = file.read(MAGIC_BYTES)
    file.seek(0)
    if magic.startswith(ZSTD_MAGIC):
        yield from _unzstd(file)
    elif magic.startswith(GZIP_MAGIC):
        with gzip.open(file) as plain:
            yield from _read(plain)
    elif magic == XZ_MAGIC:
        with lzma.open(file) as plain:
            yield from _read(plain)
    else:
        yield from _read(file)


def _read(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while data := file.read(BLOCK_BYTES):
        yield data


def _unzstd(file: IO[bytes]) -> Iterator[bytes]:
    import zstandard

    data = file.read(BLOCK_BYTES)
    while data:  # frame by frame: a reader across frames takes a cut frame for the end
        frame = zstandard.ZstdDecompressor().decompressobj()
        while data and not frame.eof:
            try:
                unpacked = frame.decompress(data)
            except zstandard.ZstdError as error:
                raise EOFError(error) from None
            yield from _sliced(unpacked)
            data = file.read(BLOCK_BYTES)
        if not frame.eof:
            raise EOFError("it ends before its end")
        data = frame.unused_data + data
