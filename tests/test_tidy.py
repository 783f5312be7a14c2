"""Goal: what a reviewer would otherwise repeat. Method: read every source file of the project."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from dead_code import c_declarations, dead_declarations, dead_files, python_declarations
from source_tree import GENERATED, ROOTS, c_code

FOLDERS = (*ROOTS, "tests")
SUFFIXES = {".py", ".pyi", ".c", ".h", ".toml", ".js", ".css", ".html"}
#: As it was published; ``vendored.toml`` beside it says by whom.
VENDORED = "uPlot."
FILE_LINES_MAX = 500
LINE_COLUMNS_MAX = 100
FUNCTION_LINES_MAX = 60
#: The command prints; reports and benches hand it what it prints, or print for it.
MAY_PRINT = {
    "memcoord/cli.py",
    "memcoord/testbed/report/printed.py",
    "memcoord/commands/run.py",
    "memcoord/commands/bench.py",
}
MARKS = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")


def sources(checkout: Path) -> list[Path]:
    """Every source file that people write, relative to the checkout."""
    found = [
        path.relative_to(checkout)
        for folder in FOLDERS
        for path in sorted((checkout / folder).rglob("*"))
        if path.suffix in SUFFIXES and path.is_file() and not path.name.startswith(VENDORED)
    ]
    wanted = [path for path in [*found, Path("setup.py")] if str(path) not in GENERATED]
    assert len(wanted) > len(FOLDERS)
    return wanted


def python_sources(checkout: Path) -> list[Path]:
    return [path for path in sources(checkout) if path.suffix == ".py"]


def complaints(path: Path, text: str) -> list[str]:
    """What is untidy in any source file."""
    lines = text.splitlines()
    found = [
        f"{path}:{number}: {what}"
        for number, line in enumerate(lines, start=1)
        for what, holds in (
            (f"longer than {LINE_COLUMNS_MAX} columns", len(line) > LINE_COLUMNS_MAX),
            ("a note to do something later", bool(MARKS.search(line))),
            ("white space at the end", line != line.rstrip()),
        )
        if holds
    ]
    if len(lines) > FILE_LINES_MAX:
        found.append(f"{path}: {len(lines)} lines, at most {FILE_LINES_MAX}")
    return found


def python_complaints(path: Path, text: str) -> list[str]:
    """What is untidy in a Python file."""
    tree = ast.parse(text)
    found = [] if ast.get_docstring(tree) else [f"{path}: no module docstring"]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                found.append(f"{path}:{node.lineno}: {node.name} has {length} lines")
        elif _prints(node) and str(path) not in MAY_PRINT:
            found.append(f"{path}: prints")
    return found


def _prints(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    )


def test_every_source_is_tidy(checkout: Path) -> None:
    found: list[str] = []
    for path in sources(checkout):
        found += complaints(path, (checkout / path).read_text(encoding="utf-8"))
    assert found == []


def test_every_python_source_is_tidy(checkout: Path) -> None:
    found: list[str] = []
    for path in python_sources(checkout):
        found += python_complaints(path, (checkout / path).read_text(encoding="utf-8"))
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "x" * (LINE_COLUMNS_MAX + 1),
        "# TO\x44O later",
        "blank at the end ",
        "\n" * (FILE_LINES_MAX + 1),
    ],
)
def test_an_untidy_source_is_found(text: str) -> None:
    assert complaints(Path("any.c"), text) != []


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        '"""Doc."""\nprint(1)',
        '"""Doc."""\ndef long():\n' + "    pass\n" * FUNCTION_LINES_MAX,
    ],
)
def test_an_untidy_python_source_is_found(text: str) -> None:
    assert len(python_complaints(Path("any.py"), text)) == 1


def test_helpers_have_names_of_their_own(checkout: Path) -> None:
    # Their directories are all on the path of the tests: a second one of a name is never imported.
    names = [
        path.stem
        for path in (checkout / "tests").rglob("*.py")
        if not path.name.startswith(("test_", "conftest"))
    ]
    assert sorted(names) == sorted(set(names) - set(FOLDERS) - sys.stdlib_module_names)


def test_nothing_of_one_machine_is_written_down(checkout: Path) -> None:
    text = (checkout / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"(?<![\w.])/(?:home|root|work|tmp)/\w+", text) == []


def test_no_file_is_dead(checkout: Path) -> None:
    assert dead_files(checkout) == []


def test_no_declaration_is_dead(checkout: Path) -> None:
    assert dead_declarations(checkout) == []


def test_dead_code_is_found(tmp_path: Path) -> None:
    for root in ROOTS:
        (tmp_path / root).mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("`shown` is public\n", encoding="utf-8")
    (tmp_path / "tmem" / "lone.py").write_text(
        'LIMIT = 1\ndef dead(): return used() + LIMIT\ndef used(): "dead"\ndef shown(): used()\n',
        encoding="utf-8",
    )
    (tmp_path / "tmem" / "lone.h").write_text(
        "#define MC_DEAD 1\nenum mc_kind { MC_USED = 0, MC_IDLE = 1 };\n"
        "int mc_dead(int a);\nstatic int mc_used(void)\n{\n    return MC_USED + mc_used();\n}\n",
        encoding="utf-8",
    )
    assert dead_files(tmp_path) == ["tmem/lone.h", "tmem/lone.py"]
    assert dead_declarations(tmp_path) == [
        *("tmem/lone.h: MC_DEAD", "tmem/lone.h: MC_IDLE", "tmem/lone.h: mc_dead"),
        "tmem/lone.py: dead",
    ]


def test_declarations_are_read_as_they_are_written() -> None:
    source = "class A:\n    @app.command\n    def f(self): ...\nB = 1\n"
    assert sorted(python_declarations(source)) == ["A", "B"]
    text = c_code(
        "/* int no(void); */ enum e { E_A, E_B = 1 << 3, /* no */ E_C };\nint f(int a,\n int b);"
    )
    assert c_declarations(text) == {"E_A": 1, "E_B": 1, "E_C": 1, "f": 1}
