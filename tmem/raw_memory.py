"""What numba lacks for kernels on raw memory: records at an address, by the names of a numpy dtype.

Owns: two types of kernel variables, and small intrinsics. Both types are one pointer at run time:

  Ref(dtype)    one record. ``client.puts += 1`` loads and stores that field.
  Array(dtype)  records or integers in a row. ``state.clients[3]`` is the Ref of one of them,
                ``state.frames[7]`` is an integer. ``cells.page`` is that field of every record,
                again an Array, with the stride of the records.

A field that is itself a record reads as its Ref, a field that is an array reads as its Array, and
an int64 field declared by ``array_of`` holds an address and reads as the Array at that address.
Integers of any width read as int64, only uint64 as uint64, so that a kernel is compiled for one
type of number. A store keeps the low bits. Nothing checks bounds, and an index is never counted
from the end. Numba's own records would read a u32 as a uint32, and compile each kernel that is
given one a second time. The intrinsics are written in LLVM's terms, so they cost next to nothing to
compile or to call. Used by the kernels; ``kernel`` and the array makers also by other packages.
"""

from __future__ import annotations

import operator
import zlib
from functools import cache
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    infer_global,
    signature,
)
from numba.extending import (
    infer_getattr,
    intrinsic,
    lower_builtin,
    lower_getattr_generic,
    lower_setattr_generic,
    models,
    register_model,
)

from tmem.layout import ARRAY_OF, PAGE_BYTES

_I64 = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
_WORD_BYTES = 8

# For functions only other kernels call: no wrappers for Python or C, no check for division by zero.
kernel: Any = cast(Any, njit)(no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")


def _label(dtype: np.dtype) -> str:
    """A short name of a dtype, the same in every process; it is part of every kernel's symbol."""
    return f"{zlib.crc32(str(dtype).encode()):08x}"


class Ref(types.Type):
    """One record of a numpy dtype, by its address."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        super().__init__(name=f"Ref_{_label(dtype)}")


class Array(types.Type):
    """Elements of a numpy dtype, ``stride`` bytes apart, by the address of the first."""

    def __init__(self, dtype: np.dtype, stride: int) -> None:
        self.dtype, self.stride = dtype, stride
        super().__init__(name=f"Array_{_label(dtype)}_{stride}")


@register_model(Ref)
@register_model(Array)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, manager: Any, pointer: types.Type) -> None:
        super().__init__(manager, pointer, _BYTES)


@cache
def _array(dtype: np.dtype, stride: int = 0) -> Array:
    return Array(dtype, stride or dtype.itemsize)


_ref = cache(Ref)


def _type_of(dtype: np.dtype) -> Any:
    """What a kernel sees of a field or an element."""
    if dtype.subdtype is not None:
        return _array(dtype.subdtype[0])
    if dtype.names is not None:
        return _ref(dtype)
    if dtype.metadata is not None:
        return _array(dtype.metadata[ARRAY_OF])
    return types.uint64 if dtype == np.uint64 else types.int64


def _field(dtype: np.dtype, name: str) -> Any:
    """The dtype of a field and its offset in bytes; None when there is no such field."""
    field = (dtype.fields or cast(Any, {})).get(name)
    return field[:2] if field else None


def _shift(builder: Any, pointer: Any, offset: Any) -> Any:
    return builder.gep(pointer, [offset])


def _load(builder: Any, dtype: np.dtype, pointer: Any) -> Any:
    """The field or element at an address; for a record or an array, the address itself."""
    if dtype.subdtype is not None or dtype.names is not None:
        return pointer
    integer = ir.IntType(8 * dtype.itemsize)
    word = builder.load(builder.bitcast(pointer, integer.as_pointer()))
    if dtype.metadata is not None:
        return builder.inttoptr(word, _BYTES)
    if dtype.itemsize == _WORD_BYTES:
        return word
    return (builder.sext if dtype.kind == "i" else builder.zext)(word, _I64)


def _store(builder: Any, dtype: np.dtype, pointer: Any, value: Any) -> None:
    integer = ir.IntType(8 * dtype.itemsize)
    if dtype.itemsize < _WORD_BYTES:
        value = builder.trunc(value, integer)
    builder.store(value, builder.bitcast(pointer, integer.as_pointer()))


@infer_getattr
class _FieldOfRecord(AttributeTemplate):
    key = Ref

    def generic_resolve(self, record: Ref, name: str) -> Any:  # type: ignore[override]
        """API: numba asks for the type of a field; None for an unknown name."""
        field = _field(record.dtype, name)
        return _type_of(field[0]) if field else None


@infer_getattr
class _FieldOfArray(AttributeTemplate):
    key = Array

    def generic_resolve(self, array: Array, name: str) -> Any:  # type: ignore[override]
        """API: numba asks for the type of a column; None for an unknown name."""
        field = _field(array.dtype, name)
        return _array(field[0], array.stride) if field else None


@lower_getattr_generic(Ref)
def _get_field(context: Any, builder: Any, record: Ref, pointer: Any, name: str) -> Any:
    dtype, offset = _field(record.dtype, name)
    return _load(builder, dtype, _shift(builder, pointer, ir.Constant(_I64, offset)))


@lower_setattr_generic(Ref)
def _set_field(context: Any, builder: Any, signature: Any, arguments: Any, name: str) -> None:
    dtype, offset = _field(signature.args[0].dtype, name)
    pointer = _shift(builder, arguments[0], ir.Constant(_I64, offset))
    _store(builder, dtype, pointer, arguments[1])


@lower_getattr_generic(Array)
def _get_column(context: Any, builder: Any, array: Array, pointer: Any, name: str) -> Any:
    return _shift(builder, pointer, ir.Constant(_I64, _field(array.dtype, name)[1]))


@infer_global(operator.getitem)
class _ElementOfArray(AbstractTemplate):
    def generic(self, arguments: Any, _: Any) -> Any:
        """API: numba asks for the signature of ``array[index]``; None for other types."""
        array, index = arguments
        if isinstance(array, Array) and isinstance(index, types.Integer):
            return signature(_type_of(array.dtype), array, types.int64)
        return None


@infer_global(operator.setitem)
class _SetElementOfArray(AbstractTemplate):
    def generic(self, arguments: Any, _: Any) -> Any:
        """API: numba asks for the signature of ``array[index] = value``; None for other types."""
        array, index, _value = arguments
        if isinstance(array, Array) and isinstance(index, types.Integer):
            return signature(types.none, array, types.int64, _type_of(array.dtype))
        return None


def _element(builder: Any, array: Array, pointer: Any, index: Any) -> Any:
    return _shift(builder, pointer, builder.mul(index, ir.Constant(_I64, array.stride)))


@lower_builtin(operator.getitem, Array, types.Integer)
def _get_element(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = signature.args[0]
    return _load(builder, array.dtype, _element(builder, array, *arguments))


@lower_builtin(operator.setitem, Array, types.Integer, types.Any)
def _set_element(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = signature.args[0]
    _store(builder, array.dtype, _element(builder, array, *arguments[:2]), arguments[2])
    return context.get_dummy_value()


def _pointer_maker(pointer: types.Type) -> Any:
    @intrinsic
    def pointer_at(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], _BYTES)

        return pointer(types.int64), generate

    return pointer_at


def record_at(dtype: np.dtype) -> Any:
    """A function for kernels: the record of this dtype at an address."""
    return _pointer_maker(_ref(dtype))


def array_at(dtype: Any) -> Any:
    """A function for kernels: the array of this dtype at an address."""
    return _pointer_maker(_array(np.dtype(dtype)))


words_at = array_at(np.int64)


@intrinsic
def address_of(typing_context: Any, record: Any) -> Any:
    """The address of a record."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], _I64)

    return types.int64(record), generate


@intrinsic
def clear_record(typing_context: Any, record: Any) -> Any:
    """Set every byte of a record to zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        count = ir.Constant(_I64, signature.args[0].dtype.itemsize)
        cgutils.memset(builder, arguments[0], count, 0)
        return context.get_dummy_value()

    return types.void(record), generate


@intrinsic
def call(typing_context: Any, function: Any, arguments: Any) -> Any:
    """Call the C function at an address with a tuple of 64-bit integers: its answer, an int64.

    By address, so that numba's cache on disk stays valid for another process, and so that no entry
    compiles what is called once more.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = cgutils.unpack_tuple(builder, arguments[1])
        kind = ir.FunctionType(_I64, [_I64] * len(values)).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), values)

    return types.int64(types.int64, arguments), generate


@intrinsic
def ones(typing_context: Any, word: Any) -> Any:
    """How many bits of a u64 are 1."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@intrinsic
def copy_bytes(typing_context: Any, target: Any, source: Any, count: Any) -> Any:
    """memcpy of ``count`` bytes between two addresses; they do not overlap."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = (builder.inttoptr(address, _BYTES) for address in arguments[:2])
        cgutils.raw_memcpy(builder, target, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@kernel
def copy_page(target: Any, source: Any) -> Any:
    """memcpy of one page between two addresses; they do not overlap."""
    copy_bytes(target, source, PAGE_BYTES)


@intrinsic
def clear_page(typing_context: Any, target: Any) -> Any:
    """memset of one page to zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _BYTES)
        cgutils.memset(builder, pointer, ir.Constant(_I64, PAGE_BYTES), 0)
        return context.get_dummy_value()

    return types.void(types.int64), generate
