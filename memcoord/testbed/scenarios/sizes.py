"""Sizes as a scenario writes them, and conditions over several of its keys.

Owns: ``Size`` and its decoding. Used by the schema and by every kind of workload.
"""

from typing import Any

from hypervisor.public.units import FRAME_BYTES, parse_bytes

SIZE_MAX = 1 << 62

#: A condition over several keys: (key to blame, whether it holds, the words if it does not).
Wish = tuple[str, bool, str]


class Size(int):
    """Bytes, a whole number of frames; written as ``"64 MiB"``, ``"512 pages"`` or bytes."""

    @property
    def frames(self) -> int:
        """The same in frames (or tmem pages) of 4 KiB."""
        return int(self) // FRAME_BYTES


def decode_size(kind: type, value: Any) -> Any:
    """``dec_hook`` of msgspec for ``Size``; ``enc_hook`` is ``int``."""
    if kind is not Size:
        raise NotImplementedError(kind)
    if type(value) is int:
        number = value
    elif type(value) is str:
        number = parse_bytes(value)
    else:
        raise ValueError(f"{value!r} is not a size: write for example '64 MiB'")
    if not 0 <= number <= SIZE_MAX:
        raise ValueError(f"a size is 0 to {SIZE_MAX} bytes")
    if number % FRAME_BYTES:
        raise ValueError(f"{number} bytes are not a whole number of {FRAME_BYTES}-byte frames")
    return Size(number)
