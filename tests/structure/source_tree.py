"""The product's sources as graphs: which file imports, includes or calls which other file.

Owns: reading the files and finding circles. ``test_layering`` and ``test_tidy`` hold the rules
against what is found here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from hypervisor.public import COMPILED
from memcoord.commands.packages import ROOTS

#: Files that ``memcoord policy new`` copies; nothing of the product imports them.
TEMPLATES = Path("memcoord/templates")
#: Written by the build; .gitignore names them too.
GENERATED = {f"{name.replace('.', '/')}.c" for name in COMPILED}
Edges = Mapping[str, set[str]]

_INCLUDE = re.compile(r'^#include "([\w./]+)"', re.MULTILINE)
_C_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_C_STRING = re.compile(r'"(?:\\.|[^"\\\n])*"')
#: A function that begins at the first column and has a body.
_C_DEFINITION = re.compile(
    r"^(?!static\b|#|typedef\b)[A-Za-z_][\w\s*]*?\b(\w+)\([^;{}]*\)\s*\n?\{", re.MULTILINE
)


def product_files(checkout: Path, *suffixes: str) -> list[Path]:
    """Every file of the product with one of these suffixes, relative to the checkout."""
    return [
        path.relative_to(checkout)
        for root in ROOTS
        for path in sorted((checkout / root).rglob("*"))
        if path.suffix in suffixes
        and str(path.relative_to(checkout)) not in GENERATED
        and path.parent != checkout / TEMPLATES
    ]


def module_of(path: Path) -> str:
    """The name under which the file at ``path`` is imported."""
    name = ".".join(path.with_suffix("").parts)
    return name.removesuffix(".__init__")


def modules(checkout: Path) -> dict[str, Path]:
    """Every module of the product by its name."""
    return {module_of(path): checkout / path for path in product_files(checkout, ".py")}


def project_imports(tree: ast.AST) -> set[str]:
    """Absolute names of everything ``tree`` imports, inside functions and for types too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide their target"
            assert node.module is not None
            # "from hypervisor import public" imports hypervisor.public.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def import_edges(checkout: Path) -> Edges:
    """Module -> the modules of the product it imports, at any time and for any purpose."""
    found = modules(checkout)
    edges: dict[str, set[str]] = {}
    for module, path in found.items():
        targets = edges.setdefault(module, set())
        for name in project_imports(ast.parse(path.read_text(encoding="utf-8"))):
            while name and name not in found:
                name = name.rpartition(".")[0]
            if name and name != module:
                targets.add(name)
    return edges


def c_code(text: str) -> str:
    """C without comments and strings."""
    return _C_STRING.sub('""', _C_COMMENT.sub(" ", text))


def include_edges(checkout: Path) -> Edges:
    """C file or header -> the headers of the product it includes, as paths."""
    files = product_files(checkout, ".c", ".h")
    by_name = {path.name: str(path) for path in files if path.suffix == ".h"}
    return {
        str(path): {
            by_name[Path(name).name]
            for name in _INCLUDE.findall((checkout / path).read_text(encoding="utf-8"))
            if Path(name).name in by_name
        }
        for path in files
    }


def call_edges(checkout: Path) -> Edges:
    """C file -> the C files whose functions it names, as paths."""
    code = {
        str(path): c_code((checkout / path).read_text(encoding="utf-8"))
        for path in product_files(checkout, ".c")
    }
    home = {name: path for path, text in code.items() for name in set(_C_DEFINITION.findall(text))}
    return {
        path: {home[name] for name in set(re.findall(r"\w+", text)) & home.keys()} - {path}
        for path, text in code.items()
    }


def circles(edges: Edges) -> list[list[str]]:
    """The groups of nodes that reach each other, each sorted (Tarjan 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for target in edges.get(node, ()):
            if target not in number:
                visit(target)
                lowest[node] = min(lowest[node], lowest[target])
            elif target in stack:
                lowest[node] = min(lowest[node], number[target])
        if lowest[node] == number[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in edges:
        if node not in number:
            visit(node)
    return sorted(found)


def lines_of(checkout: Path, paths: Iterable[Path]) -> int:
    """Lines in these files, together."""
    return sum(len((checkout / path).read_text(encoding="utf-8").splitlines()) for path in paths)
