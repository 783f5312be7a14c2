"""The process that compiles entries: ``python -m tmem.compiling MODULE:ENTRY ...``.

Owns: what is done to a kernel between its source and its object. The process imports numba and the
modules, then forks as many workers as it has CPUs; each takes the next group of entries. An object
goes to standard output as soon as it is made: ``HEADER``, ``MODULE:ENTRY``, the object.

Why not numba's own compilation: numba links every kernel with all that it calls, optimises that and
makes machine code of it before the next kernel calls it, and of all of that again in each entry.
Here kernels stay as they are lowered, each by itself, and only an entry with all it calls is linked
and optimised, once. A kernel also passes through few of numba's passes: none of them has closures,
literals or arrays. What numba lacks for that is put in its place in ``_only_lower``; a test
compiles with it. An entry calls nothing of numba or Python, so its object needs neither to be
loaded. Started by ``tmem.compiled`` alone.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import multiprocessing
import os
import struct
import sys
from typing import Any

from llvmlite import binding, ir
from numba import int64
from numba.core import codegen, errors, event
from numba.core.compiler import DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.typed_passes import (
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.types.functions import BaseFunction
from numba.core.untyped_passes import (
    FixupArgs,
    GenericRewrites,
    IRProcessing,
    ReconstructSSA,
    TranslateByteCode,
)

from tmem.entry import entries_of
from tmem.raw_memory import kernel

#: Bytes of the name, then of the object.
HEADER = struct.Struct("<QQ")
WORD = ir.IntType(64)
WORKERS_MAX = 8
QUEUE_MAX = 255  # groups; one byte each
_numbas_passes = DefaultPassBuilder.define_nopython_pipeline


def _few_passes(state: Any, name: str = "kernel") -> Any:
    """The passes of numba that a kernel needs: none for closures, literals, arrays, or reports.

    What is numba's own is compiled as ever.
    """
    if state.func_id.modname.partition(".")[0] == "numba":
        return _numbas_passes(state, name)
    manager = PassManager(name)
    for one in (
        *(TranslateByteCode, FixupArgs, IRProcessing, GenericRewrites, ReconstructSSA),
        *(NopythonTypeInference, PreLowerStripPhis, IRLegalization),
        *(NativeLowering, NoPythonBackend),
    ):
        manager.add_pass(one, one.__name__)
    manager.finalize()
    return manager


def _remembered(resolve: Any) -> Any:
    """What an operator answers for operands of some types is looked up once, not at every use."""
    known: dict[Any, Any] = {}

    def get_call_type(function: Any, context: Any, operands: Any, named: Any) -> Any:
        if named or getattr(function.typing_key, "__module__", "") != "_operator":
            return resolve(function, context, operands, named)
        key = function, operands
        if key not in known:
            known[key] = resolve(function, context, operands, named)
        return known[key]

    return get_call_type


def _only_lower() -> None:
    """Have numba stop at the code of each kernel as lowered, apart from what the kernel calls."""

    def be_done(library: Any) -> None:
        library._finalized = True

    def nothing(*_: Any, **__: Any) -> None:
        pass

    def plain(_: Any, message: str) -> str:
        return message

    for owner, name, instead in (
        (codegen.CPUCodeLibrary, "finalize", be_done),
        (codegen.JITCPUCodegen, "_add_module", nothing),
        (codegen.JITCPUCodegen, "set_env", nothing),
        (DefaultPassBuilder, "define_nopython_pipeline", staticmethod(_few_passes)),
        (BaseFunction, "get_call_type", _remembered(BaseFunction.get_call_type)),
        # Of errors that numba makes by the thousand and drops; and of events nobody records.
        (type(errors.termcolor()), "errmsg", plain),
        (event, "start_event", nothing),
        (event, "end_event", nothing),
    ):
        setattr(owner, name, instead)


@global_compiler_lock
def compile_entry(name: str, function: Any) -> bytes:
    """An entry with all it calls, as an ELF object with one function for C called ``name``."""
    count = len(inspect.signature(function).parameters)
    dispatcher = kernel(function)
    dispatcher.compile((int64,) * count)
    (made,) = dispatcher.overloads.values()
    unit = made.library.codegen.create_library(f"entry_{name}")
    module = unit.create_ir_module(name)
    _add_c_function(module, name, made, dispatcher.targetctx.call_conv, count)
    unit.add_ir_module(module)
    for library in _called(made.library):
        unit._final_module.link_in(library._get_module_for_linking(), preserve=True)
    unit._optimize_final_module()
    machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="small",
    )
    content: bytes = machine.emit_object(binding.parse_assembly(unit.get_llvm_str()))
    return content


def _called(library: Any) -> list[Any]:
    """A kernel's library and those of all that it calls, each once."""
    found = {library: None}
    waiting = [library]
    while waiting:
        new = [one for one in waiting.pop()._linking_libraries if one not in found]
        found |= dict.fromkeys(new)
        waiting += new
    return [*found]


def _add_c_function(module: Any, name: str, made: Any, convention: Any, count: int) -> None:
    """``int64_t name(int64_t, ...)``, which calls the kernel by numba's own convention."""
    restype, argtypes = made.fndesc.restype, made.fndesc.argtypes
    if restype != int64:
        raise TypeError(f"the entry {name} answers {restype}, not an int64")
    kind = convention.get_function_type(restype, argtypes)
    native = ir.Function(module, kind, made.fndesc.llvm_func_name)
    function = ir.Function(module, ir.FunctionType(WORD, [WORD] * count), name)
    builder = ir.IRBuilder(function.append_basic_block())
    _, answer = convention.call_function(builder, native, restype, argtypes, function.args)
    builder.ret(answer)


def groups(wanted: list[str]) -> list[list[str]]:
    """The entries by the worker that compiles them together, in the order they were asked for."""
    found: dict[str, list[str]] = {}
    for name in wanted:
        module, _, own = name.partition(":")
        beside = entries_of(importlib.import_module(module))[own][1] or own
        found.setdefault(f"{module}:{beside}", []).append(name)
    return list(found.values())


def _work(queue: int, out: int, lock: Any, todo: list[list[str]]) -> None:
    """Compile groups until none is left in the queue."""
    while number := os.read(queue, 1):
        for name in todo[number[0]]:
            module, _, own = name.partition(":")
            function = entries_of(sys.modules[module])[own][0]
            content = compile_entry(own, function)
            with lock:
                _write(out, HEADER.pack(len(name), len(content)) + name.encode() + content)


def _write(out: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(out, left) :]


def main(wanted: list[str]) -> int:
    """Entry point of the process; 0 when every entry was compiled."""
    todo = groups(wanted)[:QUEUE_MAX]
    _only_lower()
    gc.disable()
    gc.freeze()
    queue, fill = os.pipe()
    os.write(fill, bytes(range(len(todo))))
    os.close(fill)
    context = multiprocessing.get_context("fork")
    arguments = queue, sys.stdout.fileno(), context.Lock(), todo
    count = min(len(os.sched_getaffinity(0)), len(todo), WORKERS_MAX)
    workers = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max((abs(worker.exitcode or 0) for worker in workers), default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
