"""A page as an argument of a compiled function: any Python buffer of 4096 bytes, by its address.

Owns: the two argument types ``readable_page`` and ``writable_page``. Numba takes the address from
any contiguous object (bytes, memoryview, mmap, numpy array) through Python's buffer protocol and
releases the buffer when the function returns. An object of another length arrives as address 0. No
wrapper object is made; making one is most of the cost of a call with a numpy array.
Used by ``tmem.serve``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

from tmem.layout import PAGE_BYTES

_I32, _I64 = ir.IntType(32), ir.IntType(64)

PYBUF_SIMPLE = 0  # flag of PyObject_GetBuffer: contiguous bytes
PYBUF_WRITABLE = 1  # the same, and the caller may write
BUFFER_LENGTH_WORD = 2  # Py_buffer begins: void *buf; PyObject *obj; Py_ssize_t len


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
    """The address of a page argument; 0 when its buffer was not one page long."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return arguments[0]

    return types.int64(page), generate
