"""Goal: a program that cannot be paged is told before it starts. Method: files of each kind."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from frontend.pager import servable

HEAD = 64
PROGRAM_HEADER = 56


def elf(path: Path, *, kind: int = 2, machine: int = 62, loader: bool = True) -> Path:
    """A file with the headers of a program, and nothing else."""
    head = bytearray(HEAD)
    head[:4], head[4] = servable.ELF, kind
    struct.pack_into("<H", head, 18, machine)
    struct.pack_into("<Q14xHH", head, 32, HEAD, PROGRAM_HEADER, 1)
    first = struct.pack("<I", servable.PT_INTERP if loader else 1)
    path.write_bytes(bytes(head) + first + bytes(PROGRAM_HEADER - 4))
    path.chmod(0o755)
    return path


def test_dynamic_programs_can_be_served(tmp_path: Path) -> None:
    assert servable.obstacle(str(elf(tmp_path / "dynamic"))) == ""


@pytest.mark.parametrize(
    ("wrong", "word"),
    [({"loader": False}, "statically"), ({"kind": 1}, "x86-64"), ({"machine": 183}, "x86-64")],
)
def test_others_are_named(tmp_path: Path, wrong: dict[str, Any], word: str) -> None:
    assert word in servable.obstacle(str(elf(tmp_path / "other", **wrong)))


def test_a_setuid_program_is_named(tmp_path: Path) -> None:
    program = elf(tmp_path / "setuid")
    program.chmod(0o4755)
    assert "setuid" in servable.obstacle(str(program))


def test_a_script_is_its_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!{elf(tmp_path / 'still', loader=False)} -x\n")
    assert "statically" in servable.obstacle(str(script))
    script.write_text(f"#!{elf(tmp_path / 'loaded')}\n")
    assert servable.obstacle(str(script)) == ""
    loop = tmp_path / "loop"
    loop.write_text(f"#!{loop}\n")
    assert servable.obstacle(str(loop)) != ""


def test_what_is_no_program_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    assert "no ELF" in servable.obstacle(str(tmp_path / "text"))
    assert "cannot be read" in servable.obstacle(str(tmp_path / "none"))
    assert servable.find(os.path.basename(sys.executable), os.path.dirname(sys.executable))
