"""Goal: imports point down only. Method: read every import of every file of the packages."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOTS = ("backend", "frontend", "hypervisor", "policies", "testbed", "tmem")
#: Package -> what it may import of the project besides itself. Longest matching package counts.
ALLOWED: dict[str, set[str]] = {
    "tmem": set(),
    "policies": set(),
    "hypervisor.public": set(),
    "hypervisor": {"hypervisor.public", "policies"},
    "frontend": {"hypervisor.public"},
    "backend": {"hypervisor.public", "tmem"},
    "testbed": {"backend", "frontend", "hypervisor", "hypervisor.public", "policies", "tmem"},
}
#: Importing these takes a second or pulls in a compiler; a domain that only allocates never may.
HEAVY = ("numba", "numpy", "typer", "rich")


def project_imports(tree: ast.AST) -> set[str]:
    """Absolute names of everything ``tree`` imports, inside functions too."""
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


def package_of(name: str) -> str:
    """The layer ``name`` belongs to, or "" when it is not of this project."""
    layers = [layer for layer in ALLOWED if name == layer or name.startswith(f"{layer}.")]
    return max(layers, key=len, default="")


def violations(source: str, module: str) -> list[str]:
    """The imports of ``source``, the text of ``module``, that its layer may not have."""
    own = package_of(module)
    imported = {package_of(name): name for name in project_imports(ast.parse(source))}
    return [
        f"{module} imports {name}"
        for layer, name in sorted(imported.items())
        if layer and layer != own and layer not in ALLOWED[own]
    ]


def modules(checkout: Path) -> list[tuple[str, Path]]:
    """Every module of the six packages, by import name."""
    return [
        (".".join(path.relative_to(checkout).with_suffix("").parts), path)
        for root in ROOTS
        for path in sorted((checkout / root).rglob("*.py"))
    ]


def test_imports_point_down(checkout: Path) -> None:
    found = modules(checkout)
    assert len(found) > len(ROOTS)
    assert [
        wrong
        for module, path in found
        for wrong in violations(path.read_text(encoding="utf-8"), module)
    ] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tmem.pool", "import hypervisor.public.units"),
        ("policies.greedy", "from tmem import pool"),
        ("frontend.domain", "from hypervisor import config"),
        ("frontend.domain", "def f():\n    import backend.host"),
        ("hypervisor.coordinator", "from backend import direct"),
        ("hypervisor.public.messages", "import policies"),
        ("backend.host", "import memcoord.commands.run"),
    ],
)
def test_an_upward_import_is_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


def test_a_downward_import_is_fine() -> None:
    assert violations("from hypervisor.public import units", "frontend.domain") == []


def test_the_frontend_imports_nothing_heavy(checkout: Path) -> None:
    for module, path in modules(checkout):
        if package_of(module) not in ("frontend", "hypervisor.public"):
            continue
        names = project_imports(ast.parse(path.read_text(encoding="utf-8")))
        heavy = [name for name in names if name.split(".")[0] in HEAVY]
        assert heavy == [], f"{module} imports {heavy}"
