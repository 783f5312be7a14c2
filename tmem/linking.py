"""Object code into memory that can be executed, without numba and without a linker.

Owns: ``link``. An object is what ``tmem.compiling`` makes: an ELF file of position-independent code
that calls nothing but itself and ``EXTERNALS``. On x86-64 its few kinds of relocations are applied
here, in about a millisecond; on any other machine llvmlite's loader does it, whose import takes a
tenth of a second.
Rules: an object comes out of our own cache or compiler; it is trusted. What is linked stays for the
life of the process. Used by ``tmem.compiled``.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
from typing import NamedTuple

#: What an object may call of the C library.
EXTERNALS = ("memcpy", "memmove", "memset", "bcmp", "memcmp")
ALLOCATED, WRITABLE = 2, 1  # flags of a section
SYMBOLS, WITHOUT_BYTES = 2, 8  # types of a section
RELOCATIONS = 4
UNDEFINED, COMMON = 0, 0xFFF2  # sections of a symbol that lies in none
FUNCTION = 2  # type of a symbol
ABSOLUTE_64, RELATIVE_32, CALL_32 = 1, 2, 4  # kinds of relocations
#: jmp *0(%rip), before the address: how code reaches what is far away.
JUMP = b"\xff\x25\0\0\0\0"
SLOT_BYTES = 16
UNWINDING = b".eh_frame"  # nothing unwinds through an entry


class Section(NamedTuple):
    """A section header, in the file's order."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry_size: int


class Symbol(NamedTuple):
    """An entry of the symbol table."""

    name: int
    info: int
    other: int
    section: int
    value: int
    size: int


_SECTION, _SYMBOL, _RELOCATION = (
    struct.Struct(f"<{one}") for one in ("IIQQQQIIQQ", "IBBHQQ", "QQq")
)
_linked: list[mmap.mmap] = []  # mapped for ever


class _Object:
    """An object file, and where each of its parts is to lie in the image of all."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        table, count, names = self._header()
        self.sections = [
            Section(*_SECTION.unpack_from(content, table + 64 * number)) for number in range(count)
        ]
        self._names = self.sections[names].offset
        self.symbols: list[Symbol] = []
        for section in self.sections:
            if section.type == SYMBOLS:
                where = content[section.offset : section.offset + section.size]
                self.symbols = [Symbol(*found) for found in _SYMBOL.iter_unpack(where)]
                self._symbol_names = self.sections[section.link].offset
        self.places: dict[int, int] = {}  # of sections, in the image
        self.commons: dict[int, int] = {}  # of symbols that have no section

    def _header(self) -> tuple[int, int, int]:
        if self.content[:5] != b"\x7fELF\x02":
            raise ValueError("no ELF object of 64 bits")
        (table,) = struct.unpack_from("<Q", self.content, 40)
        count, names = struct.unpack_from("<HH", self.content, 60)
        return table, count, names

    def _text(self, at: int) -> bytes:
        return self.content[at : self.content.index(b"\0", at)]

    def name(self, symbol: Symbol) -> str:
        return self._text(self._symbol_names + symbol.name).decode()

    def is_loaded(self, section: Section) -> bool:
        name = self._text(self._names + section.name)
        return bool(section.flags & ALLOCATED) and not name.startswith(UNWINDING)

    def place(self, end: int, writable: bool) -> int:
        """Give every part a place from ``end`` on; the new end."""
        for number, section in enumerate(self.sections):
            if self.is_loaded(section) and bool(section.flags & WRITABLE) == writable:
                end = -(-end // max(section.align, 1)) * max(section.align, 1)
                self.places[number] = end
                end += section.size
        for number, symbol in enumerate(self.symbols):
            if writable and symbol.section == COMMON:
                end = -(-end // max(symbol.value, 1)) * max(symbol.value, 1)
                self.commons[number] = end
                end += symbol.size
        return end


class _Image:
    """Memory for several objects: code and constants first, then what they may write."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = {name: _Object(content) for name, content in objects.items()}
        self.slots = {name: SLOT_BYTES * number for number, name in enumerate(EXTERNALS)}
        end = SLOT_BYTES * len(EXTERNALS)
        for one in self.objects.values():
            end = one.place(end, writable=False)
        self.code_bytes = -(-end // mmap.PAGESIZE) * mmap.PAGESIZE
        end = self.code_bytes
        for one in self.objects.values():
            end = one.place(end, writable=True)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.memory = mmap.mmap(-1, max(end, self.code_bytes + 1), flags=flags)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def link(self) -> dict[str, int]:
        """Fill the memory and make the code executable; the address of each object's function."""
        library = ctypes.CDLL(None, use_errno=True)
        for name, at in self.slots.items():
            address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
            self.memory[at : at + SLOT_BYTES] = JUMP + struct.pack("<Q", address) + b"\0\0"
        for one in self.objects.values():
            self._fill(one)
        for one in self.objects.values():
            self._relocate(one)
        protect = library.mprotect
        protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        if protect(self.base, self.code_bytes, mmap.PROT_READ | mmap.PROT_EXEC):
            raise OSError(ctypes.get_errno(), "code cannot be made executable")
        return {name: self.base + self._entry(one, name) for name, one in self.objects.items()}

    def _fill(self, one: _Object) -> None:
        for number, place in one.places.items():
            section = one.sections[number]
            if section.type != WITHOUT_BYTES:
                bytes_of = one.content[section.offset : section.offset + section.size]
                self.memory[place : place + section.size] = bytes_of

    def _relocate(self, one: _Object) -> None:
        for section in one.sections:
            if section.type == RELOCATIONS and section.info in one.places:
                where = one.content[section.offset : section.offset + section.size]
                for offset, info, addend in _RELOCATION.iter_unpack(where):
                    at = one.places[section.info] + offset
                    self._apply(one, at, info & 0xFFFFFFFF, info >> 32, addend)

    def _apply(self, one: _Object, at: int, kind: int, symbol: int, addend: int) -> None:
        target = self._place_of(one, symbol)
        if kind == ABSOLUTE_64:
            word = (self.base + target + addend) & 0xFFFFFFFFFFFFFFFF
            self.memory[at : at + 8] = struct.pack("<Q", word)
        elif kind in (RELATIVE_32, CALL_32):
            self.memory[at : at + 4] = struct.pack("<i", target + addend - at)
        else:
            raise ValueError(f"a relocation of kind {kind} to {one.name(one.symbols[symbol])}")

    def _place_of(self, one: _Object, number: int) -> int:
        symbol = one.symbols[number]
        if symbol.section == COMMON:
            return one.commons[number]
        if symbol.section == UNDEFINED:
            return self.slots[one.name(symbol)]
        return one.places[symbol.section] + symbol.value

    def _entry(self, one: _Object, name: str) -> int:
        for number, symbol in enumerate(one.symbols):
            if symbol.info & 0xF == FUNCTION and one.name(symbol) == name:
                return self._place_of(one, number)
        raise ValueError(f"no function {name}")


def link(objects: dict[str, bytes]) -> dict[str, int]:
    """The address of the function that each object is named after.

    OSError when the kernel refuses memory, ValueError or KeyError for an object that is none of
    ours.
    """
    if platform.machine() != "x86_64":
        return _link_by_llvm(objects)
    image = _Image(objects)
    addresses = image.link()
    _linked.append(image.memory)
    return addresses


def _link_by_llvm(objects: dict[str, bytes]) -> dict[str, int]:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(reloc="pic")
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    for content in objects.values():
        engine.add_object_file(binding.ObjectFileRef.from_data(content))
    engine.finalize_object()
    _engines.append(engine)
    return {name: engine.get_function_address(name) for name in objects}


_engines: list[object] = []
