"""The hash of a page's content, a function of the xxHash library that kernels call by its address.

Owns: ``hash_address``. What the kernels do with the hash: ``tmem.dedup``. Used by ``tmem.pool``.
"""

from __future__ import annotations

import ctypes

import xxhash._xxhash

from tmem.codes import TmemError

# The first chooses its code by the CPU at run time: with AVX-512 a page takes 65 to 77 ns, not 180.
HASH_FUNCTIONS = ("XXH3_64bits_dispatch", "XXH3_64bits")


def hash_address() -> int:
    """The address of XXH3_64bits (pointer, size_t), the variant for this CPU where the library has
    one; TmemError when it has none at all."""
    file = xxhash._xxhash.__file__
    library = ctypes.CDLL(file)
    for name in HASH_FUNCTIONS:
        if hasattr(library, name):
            return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
    raise TmemError(f"dedup needs XXH3_64bits, which {file} lacks: pip install -U xxhash")
