"""Start-up check that our generically named packages are really ours.

Owns: the list of import roots, and the error for a second distribution (or a directory beside the
caller) that ships a package of the same name. Called once by the command, before anything else;
children are started with ``-P`` so that their working directory cannot shadow a package.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hypervisor.public.errors import MemcoordError

ROOTS = ("backend", "frontend", "hypervisor", "memcoord", "policies", "tmem")
DISTRIBUTION = "memcoord"


class Shadowed(MemcoordError):
    """An import root of ours is not ours; ``root`` names it."""

    def __init__(self, root: str, why: str) -> None:
        self.root, self.why = root, why
        super().__init__(f"package {root!r}: {why}; install {DISTRIBUTION} in its own environment")


def locate(root: str) -> Path:
    """The directory ``import root`` would use; Shadowed when there is none."""
    spec = importlib.util.find_spec(root)
    if spec is None or spec.origin is None:
        raise Shadowed(root, "not found, or a directory without __init__.py stands before it")
    return Path(spec.origin).resolve().parent


def owners(path: Iterable[str] | None = None) -> Mapping[str, Iterable[str]]:
    """By import root of ours, the distributions in ``path`` (default: sys.path) that ship one so
    called. As ``importlib.metadata.packages_distributions``, without reading every name of every
    file: that took longer than the rest of a start."""
    found: dict[str, list[str]] = {}
    for folder in dict.fromkeys(sys.path if path is None else path):
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                if name.endswith((".dist-info", ".egg-info")):
                    for root in _shipped(Path(folder, name)):
                        found.setdefault(root, []).append(name.partition("-")[0].lower())
    return found


def _shipped(info: Path) -> list[str]:
    """The roots of ours that a distribution has, by what it says, else by its files."""
    with contextlib.suppress(OSError):
        told = (info / "top_level.txt").read_bytes().split()
        return [root for root in ROOTS if root.encode() in told]
    with contextlib.suppress(OSError):
        files = b"\n" + (info / "RECORD").read_bytes()
        return [root for root in ROOTS if f"\n{root}/".encode() in files]
    return []


def check_packages(
    locate: Callable[[str], Path] = locate,
    distributions: Callable[[], Mapping[str, Iterable[str]]] = owners,
) -> None:
    """Shadowed when a root lies elsewhere than the others or two distributions claim it."""
    home = locate("memcoord").parent
    for root in ROOTS:
        path = locate(root)
        if path.parent != home:
            raise Shadowed(root, f"{path} stands before {home / root}")
    owners = distributions()
    for root in ROOTS:
        # A set, because an editable checkout lists itself twice; empty in a bare checkout.
        foreign = set(owners.get(root, ())) - {DISTRIBUTION}
        if foreign:
            raise Shadowed(root, f"also shipped by {', '.join(sorted(foreign))}")
