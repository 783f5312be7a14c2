"""Goal: what is installed is complete and ours alone. Method: build it, as a user's pip does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import hypervisor
from hypervisor.public import COMPILED as MODULES
from memcoord.commands.packages import ROOTS
from memcoord.testbed.applications import shipped

COMPILED = tuple(name.replace(".", "/") for name in MODULES)
#: Compiled, shipped, and no module: it is loaded into programs.
PAGER = "frontend/pager/_pager"
#: Compiled, shipped, and executed: they have no suffix of an extension.
APPLICATIONS = {
    f"memcoord/testbed/applications/{name}{shipped.SUFFIX}" for name in shipped.PROGRAMS
}
BUILD_TIMEOUT_S = 600
#: Hidden directories, and what a build in the checkout leaves.
LEFT_OUT = shutil.ignore_patterns(
    *(".*", "build", "dist", "*.egg-info", "*.so", f"*{shipped.SUFFIX}", "__pycache__"),
    *(f"{name.rpartition('/')[2]}.c" for name in COMPILED),
)


@pytest.fixture(scope="module")
def project(checkout: Path) -> dict[str, Any]:
    return tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist of this checkout, and the wheel built from that sdist."""
    source, out = tmp_path_factory.mktemp("source") / "memcoord", tmp_path_factory.mktemp("dist")
    shutil.copytree(checkout, source, ignore=LEFT_OUT)
    # What a build needs is here already: a test must not depend on the network.
    command = [sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run(
        [*command, str(source)],
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return out


def test_every_package_is_listed(checkout: Path, project: dict[str, Any]) -> None:
    found = {
        ".".join(path.parent.relative_to(checkout).parts)
        for root in ROOTS
        for path in (checkout / root).rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == found


def test_under_tox_the_wheel_is_tested(checkout: Path) -> None:
    if "TOX_ENV_NAME" not in os.environ:
        pytest.skip("not run by tox")
    home = Path(hypervisor.__file__).resolve().parents[1]
    assert home == Path(sysconfig.get_paths()["platlib"]).resolve()


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT_S)
def test_the_wheel_has_our_six_roots_and_no_other(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        rights = {name: wheel.getinfo(name).external_attr >> 16 for name in APPLICATIONS}
    assert all(mode & 0o111 for mode in rights.values())
    roots = {name.split("/")[0] for name in names}
    assert {root for root in roots if not root.endswith(".dist-info")} == {*ROOTS}
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {f"{name}{suffix}" for name in (*COMPILED, PAGER)} <= set(names)


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT_S)
def test_the_wheel_has_the_data(built: Path, checkout: Path) -> None:
    wanted = {
        str(path.relative_to(checkout))
        for pattern in (
            "memcoord/templates/*.py",
            "memcoord/testbed/data/*",
            "memcoord/testbed/applications/data/*",
            "memcoord/simulation/cost_sets/*.toml",
            "memcoord/testbed/scenarios/*.toml",
            "memcoord/testbed/web/assets/*",
            "**/*.pyi",
            "*/py.typed",
        )
        for path in checkout.glob(pattern)
        if path.relative_to(checkout).parts[0] in ROOTS
    }
    assert "memcoord/testbed/scenarios/main.toml" in wanted
    assert any(name.endswith(".csv.xz") for name in wanted)
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        assert wanted <= set(wheel.namelist())


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT_S)
def test_the_sdist_has_every_source(built: Path, checkout: Path) -> None:
    wanted = {
        str(path.relative_to(checkout))
        for root in ROOTS
        for path in (checkout / root).glob("**/abi/*.[ch]")
    }
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert wanted <= names
    assert not [name for name in names if name.endswith(".so")]
