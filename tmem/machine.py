"""What numba lacks for kernels on raw memory: pointers from addresses, a page copy, page buffers.

Owns: the intrinsics, and the two argument types through which Python hands a buffer to a kernel.
A ``readable_page`` or ``writable_page`` arrives as the address of its 4096 bytes, taken by the
buffer protocol from any contiguous object (bytes, memoryview, mmap, numpy array) and released when
the kernel returns; an object of another length arrives as 0. No wrapper object is made, which is
most of the cost of calling with a numpy array. Used by the kernels.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

from tmem.layout import PAGE_BYTES

PYBUF_SIMPLE = 0  # contiguous bytes
PYBUF_WRITABLE = 1  # the same, and we may write
BUFFER_LENGTH_WORD = 2  # Py_buffer begins: void *buf; PyObject *obj; Py_ssize_t len

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


@intrinsic
def copy_page(typing_context: Any, target: Any, source: Any) -> Any:
    """memcpy of one page between two addresses; they do not overlap."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte_pointer = ir.IntType(8).as_pointer()
        cgutils.raw_memcpy(
            builder,
            builder.inttoptr(arguments[0], byte_pointer),
            builder.inttoptr(arguments[1], byte_pointer),
            ir.Constant(ir.IntType(64), PAGE_BYTES),
            1,
        )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def clear_page(typing_context: Any, target: Any) -> Any:
    """memset of one page to zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        cgutils.memset(builder, pointer, ir.Constant(ir.IntType(64), PAGE_BYTES), 0)
        return context.get_dummy_value()

    return types.void(types.int64), generate


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
        super().__init__(manager, page_type, ir.IntType(64))


@unbox(PageType)
def _unbox_page(page_type: PageType, argument: Any, c: Any) -> NativeValue:
    """Take the buffer; Python's own errors (no buffer, not contiguous, read-only) are raised."""
    builder, word = c.builder, ir.IntType(64)
    view = c.pyapi.alloca_buffer()
    get = c.pyapi._get_function(
        ir.FunctionType(ir.IntType(32), [c.pyapi.pyobj, view.type, ir.IntType(32)]),
        name="PyObject_GetBuffer",
    )
    failed = builder.call(get, [argument, view, ir.Constant(ir.IntType(32), page_type.flags)])
    first = builder.bitcast(view, word.as_pointer())
    address = builder.load(first)
    length = builder.load(builder.gep(first, [ir.Constant(word, BUFFER_LENGTH_WORD)]))
    is_page = builder.icmp_unsigned("==", length, ir.Constant(word, PAGE_BYTES))
    return NativeValue(
        builder.select(is_page, address, ir.Constant(word, 0)),
        is_error=cgutils.is_not_null(builder, failed),
        cleanup=lambda: c.pyapi.release_buffer(view),
    )


@intrinsic
def page_address(typing_context: Any, page: Any) -> Any:
    """The address a page argument stands for; 0 when the buffer was not one page long."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return arguments[0]

    return types.int64(page), generate
