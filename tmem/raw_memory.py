"""What numba lacks for kernels on raw memory: pointers from addresses, cells, pages, buffers.

Owns: the intrinsics (given in LLVM's terms, so they cost nothing to compile or to call), and the
two argument types through which Python hands a buffer to a kernel. A ``readable_page`` or
``writable_page`` arrives as the address of its 4096 bytes, taken by the buffer protocol from any
contiguous object (bytes, memoryview, mmap, numpy array) and released when the kernel returns; an
object of another length arrives as 0. No wrapper object is made, which is most of the cost of
calling with a numpy array. Used by the kernels.
"""

from __future__ import annotations

from typing import Any, cast

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

from tmem.layout import CELL_WORDS, H_CELLS, H_KEYS, H_NOTE, PAGE_BYTES

_I32, _I64 = ir.IntType(32), ir.IntType(64)

PYBUF_SIMPLE = 0  # contiguous bytes
PYBUF_WRITABLE = 1  # the same, and we may write
BUFFER_LENGTH_WORD = 2  # Py_buffer begins: void *buf; PyObject *obj; Py_ssize_t len

# For functions only other kernels call: no wrappers for Python or C, no check for division by zero.
kernel: Any = cast(Any, njit)(no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")

words_type = types.CPointer(types.int64)
cells_type = types.CPointer(types.uint32)
oids_type = types.CPointer(types.uint64)


def _pointer_maker(pointer: types.CPointer) -> Any:
    @intrinsic
    def pointer_at(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(pointer))

        return pointer(types.int64), generate

    return pointer_at


words_at = _pointer_maker(words_type)  # int64 *
cells_at = _pointer_maker(cells_type)  # uint32 *
oids_at = _pointer_maker(oids_type)  # uint64 *


def _word(builder: Any, s: Any, number: Any) -> Any:
    return builder.load(builder.gep(s, [number]))


def _cell_pointer(builder: Any, s: Any, cell: Any, column: Any) -> Any:
    cells = _word(builder, s, ir.Constant(_I64, H_CELLS))
    offset = builder.add(builder.mul(cell, ir.Constant(_I64, CELL_WORDS)), column)
    return builder.gep(builder.inttoptr(cells, _I32.as_pointer()), [offset])


@intrinsic
def field(typing_context: Any, s: Any, cell: Any, column: Any) -> Any:
    """One word of a cell: ``field(s, cell, CELL_INDEX)``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.zext(builder.load(_cell_pointer(builder, *arguments)), _I64)

    return types.int64(words_type, types.int64, types.int64), generate


@intrinsic
def set_field(typing_context: Any, s: Any, cell: Any, column: Any, value: Any) -> Any:
    """Write one word of a cell."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(builder.trunc(arguments[3], _I32), _cell_pointer(builder, *arguments[:3]))
        return context.get_dummy_value()

    return types.void(words_type, types.int64, types.int64, types.int64), generate


@intrinsic
def key(typing_context: Any, s: Any, number: Any) -> Any:
    """One secret key of the hash, a u64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = builder.add(arguments[1], ir.Constant(_I64, H_KEYS))
        return _word(builder, arguments[0], number)

    return types.uint64(words_type, types.int64), generate


@intrinsic
def ones(typing_context: Any, word: Any) -> Any:
    """How many bits of a u64 are 1."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@intrinsic
def copy_page(typing_context: Any, target: Any, source: Any) -> Any:
    """memcpy of one page between two addresses; they do not overlap."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte_pointer = ir.IntType(8).as_pointer()
        cgutils.raw_memcpy(
            builder,
            builder.inttoptr(arguments[0], byte_pointer),
            builder.inttoptr(arguments[1], byte_pointer),
            ir.Constant(_I64, PAGE_BYTES),
            1,
        )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def copy_bytes(typing_context: Any, target: Any, source: Any, count: Any) -> Any:
    """memcpy of ``count`` bytes between two addresses."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte_pointer = ir.IntType(8).as_pointer()
        target = builder.inttoptr(arguments[0], byte_pointer)
        source = builder.inttoptr(arguments[1], byte_pointer)
        cgutils.raw_memcpy(builder, target, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def clear_page(typing_context: Any, target: Any) -> Any:
    """memset of one page to zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        cgutils.memset(builder, pointer, ir.Constant(_I64, PAGE_BYTES), 0)
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def note(
    typing_context: Any,
    s: Any,
    kind: Any,
    client: Any,
    pool: Any,
    oid0: Any,
    oid1: Any,
    oid2: Any,
    index: Any,
) -> Any:
    """Call the function at H_NOTE: ``int64 (int64 state, kind, client, pool, oid0, oid1, oid2,
    index)``. By address, because all entries would else compile its many lines each."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_I64, [_I64] * len(arguments)).as_pointer()
        function = builder.inttoptr(_word(builder, arguments[0], ir.Constant(_I64, H_NOTE)), kind)
        state = builder.ptrtoint(arguments[0], _I64)
        return builder.call(function, [state, *arguments[1:]])

    name = (types.uint64, types.uint64, types.uint64, types.int64)
    return types.int64(words_type, types.int64, types.int64, types.int64, *name), generate


class PageType(types.Type):
    """A buffer of one page, passed as its address; ``flags`` are those of PyObject_GetBuffer."""

    def __init__(self, name: str, flags: int) -> None:
        self.flags = flags
        super().__init__(name=name)


readable_page = PageType("readable_page", PYBUF_SIMPLE)
writable_page = PageType("writable_page", PYBUF_WRITABLE)


@register_model(PageType)
class _PageModel(models.PrimitiveModel):
    def __init__(self, manager: Any, page_type: PageType) -> None:
        super().__init__(manager, page_type, _I64)


@unbox(PageType)
def _unbox_page(page_type: PageType, argument: Any, c: Any) -> NativeValue:
    """Take the buffer; Python's own errors (no buffer, not contiguous, read-only) are raised."""
    builder = c.builder
    view = c.pyapi.alloca_buffer()
    get = c.pyapi._get_function(
        ir.FunctionType(_I32, [c.pyapi.pyobj, view.type, _I32]),
        name="PyObject_GetBuffer",
    )
    failed = builder.call(get, [argument, view, ir.Constant(_I32, page_type.flags)])
    first = builder.bitcast(view, _I64.as_pointer())
    address = builder.load(first)
    length = builder.load(builder.gep(first, [ir.Constant(_I64, BUFFER_LENGTH_WORD)]))
    is_page = builder.icmp_unsigned("==", length, ir.Constant(_I64, PAGE_BYTES))
    return NativeValue(
        builder.select(is_page, address, ir.Constant(_I64, 0)),
        is_error=cgutils.is_not_null(builder, failed),
        cleanup=lambda: c.pyapi.release_buffer(view),
    )


@intrinsic
def page_address(typing_context: Any, page: Any) -> Any:
    """The address a page argument stands for; 0 when the buffer was not one page long."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return arguments[0]

    return types.int64(page), generate
