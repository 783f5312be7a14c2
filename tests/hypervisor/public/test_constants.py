"""Goal: Python has the values of the headers. Method: make the generated modules again, compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from hypervisor.public import _cdef, constants
from policies import fallow
from tmem import codes, layout, record


@pytest.mark.parametrize(
    ("module", "text"), [(constants, _cdef.constants_text), (record, _cdef.record_text)]
)
def test_a_generated_module_is_what_the_headers_give(
    checkout: Path, module: ModuleType, text: Callable[[Path], str]
) -> None:
    path = Path(str(module.__file__))
    assert path.read_text(encoding="utf-8") == text(checkout / "hypervisor/public/abi"), (
        f"{path.name} is not what the headers give: run `{_cdef.COMMAND}` and commit what it wrote"
    )


def test_the_record_is_the_same_for_struct_and_numpy() -> None:
    assert record.RECORD.itemsize == constants.RECORD_BYTES
    fields = record.RECORD.fields
    assert fields is not None
    assert fields["status"][1] == constants.RECORD_STATUS_OFFSET


def test_what_lies_below_the_headers_agrees_with_them() -> None:
    # tmem and policies import nothing of the hypervisor.
    assert layout.MAX_AREAS == constants.MAX_AREAS
    assert fallow.AREA_FRAMES == constants.AREA_FRAMES
    assert {op.name: op.value for op in codes.Op} == {
        op.name: op.value for op in constants.Op if op >= constants.Op.PUT
    }
    assert {flag.name: flag.value for flag in codes.PoolFlag} == {
        flag.name: flag.value for flag in constants.PoolFlag
    }
