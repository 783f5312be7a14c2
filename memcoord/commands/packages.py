"""Start-up check that our generically named packages are really ours.

Owns: the list of import roots, and the error for a second distribution (or a directory beside the
caller) that ships a package of the same name. Called once by the command, before anything else;
children are started with ``-P`` so that their working directory cannot shadow a package.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
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


def check_packages(
    locate: Callable[[str], Path] = locate,
    distributions: Callable[[], Mapping[str, Iterable[str]]] = (
        importlib.metadata.packages_distributions
    ),
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
