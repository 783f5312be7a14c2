"""Goal: imports point down only, and the house stays a house. Method: read every source file."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
from source_tree import (
    ROOTS,
    call_edges,
    circles,
    import_edges,
    include_edges,
    lines_of,
    modules,
    product_files,
    project_imports,
)

LOW = {"backend", "frontend", "hypervisor", "hypervisor.public", "policies", "tmem"}
#: The rooms of real runs, lowest first.
TESTBED = [
    f"memcoord.testbed.{room}"
    for room in (
        *("applications", "runs", "machines", "scenarios", "traces", "streams", "watch"),
        *("metrics", "report", "archive", "web", "guests", "stubs", "live"),
    )
]
#: Package -> what it may import of the project besides itself. Longest matching package counts.
ALLOWED: dict[str, set[str]] = {
    "tmem": set(),
    "policies": set(),
    "hypervisor.public": set(),
    "hypervisor": {"hypervisor.public", "policies"},
    "frontend": {"hypervisor.public"},
    "backend": {"hypervisor.public", "tmem"},
    **{room: LOW | set(TESTBED[:floor]) for floor, room in enumerate(TESTBED)},
    "memcoord.testbed": LOW,
    "memcoord.simulation": {*LOW, *TESTBED},
    "memcoord.benchmarks": {*LOW, *TESTBED, "memcoord.simulation"},
    "memcoord.commands": {*LOW, *TESTBED, "memcoord.simulation", "memcoord.benchmarks"},
    "memcoord": {*LOW, *TESTBED, "memcoord.simulation", "memcoord.commands"},
    # It lists what all the others declare, and none of them needs it.
    "memcoord.reference": {
        *(*LOW, *TESTBED, "memcoord.simulation", "memcoord.benchmarks"),
        *("memcoord.commands", "memcoord"),
    },
}
#: Folder of C -> where the headers may lie that its files include.
INCLUDES = {
    "tmem": {"tmem"},
    "hypervisor/public/abi": {"hypervisor/public/abi"},
    "frontend/abi": {"frontend/abi", "hypervisor/public/abi"},
    "frontend/pager/abi": {"frontend/pager/abi", "hypervisor/public/abi"},
    "backend/abi": {"backend/abi", "hypervisor/public/abi"},
    "memcoord/testbed/applications/abi": {"memcoord/testbed/applications/abi"},
    "memcoord/testbed/guests/abi": {"memcoord/testbed/guests/abi", "hypervisor/public/abi"},
    "memcoord/testbed/machines/image": {"memcoord/testbed/machines/image"},
    "memcoord/testbed/traces/abi": {"memcoord/testbed/traces/abi", "hypervisor/public/abi"},
    "memcoord/benchmarks/abi": {
        *("memcoord/benchmarks/abi", "memcoord/testbed/guests/abi"),
        *("frontend/abi", "hypervisor/public/abi"),
    },
}
#: Importing these takes a second or pulls in a compiler; a domain that only allocates never may.
HEAVY = ("numba", "numpy", "typer", "rich")
#: The houses of the project: the roots, and the four parts of memcoord.
HOUSES = (
    *(root for root in ROOTS if root != "memcoord"),
    *(f"memcoord/{part}" for part in ("commands", "benchmarks", "simulation", "testbed")),
)
OWN_FILES_MAX = 12  # of a folder that has subfolders
SOURCES = (".py", ".pyi", ".c", ".h")


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


def test_imports_point_down(checkout: Path) -> None:
    found = modules(checkout)
    assert len(found) > len(ROOTS)
    assert [
        wrong
        for module, path in found.items()
        for wrong in violations(path.read_text(encoding="utf-8"), module)
    ] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tmem.pool", "import hypervisor.public.units"),
        ("policies.greedy", "from tmem import pool"),
        ("frontend.domain", "from hypervisor import config"),
        ("frontend.domain", "def f():\n    import backend.host"),
        ("hypervisor.coordination.coordinator", "from backend import direct"),
        ("hypervisor.public.messages", "import policies"),
        ("backend.host", "import memcoord.commands.run"),
        ("memcoord.testbed.guests.replaying", "from memcoord.benchmarks._loops import lib"),
        ("memcoord.testbed.runs.rundir", "from memcoord.testbed.scenarios import schema"),
        ("memcoord.simulation.world", "from memcoord.benchmarks import harness"),
        ("memcoord.benchmarks.harness", "from memcoord.commands import bench"),
        ("memcoord.commands.run", "from memcoord import cli"),
        ("memcoord.cli", "from memcoord.reference import pages"),
    ],
)
def test_an_upward_import_is_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


def test_a_downward_import_is_fine() -> None:
    assert violations("from hypervisor.public import units", "frontend.domain") == []


def test_no_circle_ties_python_files_together(checkout: Path) -> None:
    assert circles(import_edges(checkout)) == []


def test_no_circle_ties_c_files_together(checkout: Path) -> None:
    assert circles(include_edges(checkout)) == []
    assert circles(call_edges(checkout)) == []


def test_a_circle_is_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert circles(edges) == [["b", "c"]]


def test_includes_point_down(checkout: Path) -> None:
    edges = include_edges(checkout)
    assert edges
    assert [
        f"{path} includes {header}"
        for path, headers in edges.items()
        for header in headers
        if str(Path(header).parent) not in INCLUDES[str(Path(path).parent)]
    ] == []


def test_a_bench_imports_its_root_and_not_the_other_way_round(checkout: Path) -> None:
    """A file that all benches share knows none of them."""
    root = "memcoord.benchmarks"
    assert [
        f"{module} imports {target}"
        for module, targets in import_edges(checkout).items()
        if module.rpartition(".")[0] == root and modules(checkout)[module].stem != "__init__"
        for target in targets
        if target.startswith(f"{root}.") and target.count(".") > root.count(".") + 1
    ] == []


def test_a_folder_is_a_room_or_a_floor(checkout: Path) -> None:
    """A folder holds files, or subfolders and few files of its own."""
    files = Counter(path.parent for path in product_files(checkout, *SOURCES))
    parents = {parent for folder in files for parent in folder.parents}
    assert {
        str(folder): count
        for folder, count in files.items()
        if folder in parents and count > OWN_FILES_MAX
    } == {}


def test_no_house_holds_more_than_a_quarter(checkout: Path) -> None:
    sources = product_files(checkout, *SOURCES)
    total = lines_of(checkout, sources)
    for house in HOUSES:
        own = lines_of(checkout, [path for path in sources if str(path).startswith(f"{house}/")])
        assert 0 < own < total / 4, house


def test_the_frontend_imports_nothing_heavy(checkout: Path) -> None:
    for module, path in modules(checkout).items():
        if package_of(module) not in ("frontend", "hypervisor.public"):
            continue
        names = project_imports(ast.parse(path.read_text(encoding="utf-8")))
        heavy = [name for name in names if name.split(".")[0] in HEAVY]
        assert heavy == [], f"{module} imports {heavy}"
