"""Goal: Python has the values of the headers. Method: make the generated modules again, compare."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypervisor.public import _cdef, constants
from policies import fallow
from tmem import codes, layout
from tmem.record import RECORD


@pytest.mark.parametrize(
    ("path", "text"),
    [(_cdef.CONSTANTS, _cdef.constants_text()), (_cdef.RECORD, _cdef.record_text())],
    ids=["constants", "record"],
)
def test_the_generated_modules_are_what_the_headers_give(path: Path, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text, (
        f"{path.name} is not what the headers give: run `{_cdef.COMMAND}` and commit what it wrote"
    )


def test_the_record_is_the_same_for_struct_and_numpy() -> None:
    assert RECORD.itemsize == constants.RECORD_BYTES
    fields = RECORD.fields
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
