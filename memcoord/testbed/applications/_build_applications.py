"""What ``setup.py`` builds of ``abi/``: programs, each a file that can be executed by itself.

Owns: their sources and flags, and how an executable is built where setuptools builds libraries. A
program is an extension module by its place only: it is built and shipped as one, under a name with
SUFFIX, and Python cannot import it.

API: ``APPLICATIONS`` and ``BuildApplications``, for ``setup.py``.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

_ROOT = Path(__file__).resolve().parents[3]
_ABI = Path(__file__).resolve().parent / "abi"
_PACKAGE = "memcoord.testbed.applications"

SUFFIX = ".program"
_SHARED = {
    "als": ("app", "pattern", "sparse"),
    "pagerank": ("app", "pattern", "sparse"),
    "usemem": ("app",),
}


class Application(Extension):
    """A program of ``abi/``, from its own source and those it shares."""

    def __init__(self, name: str, shared: tuple[str, ...]) -> None:
        paths = [(_ABI / f"{each}.c").relative_to(_ROOT) for each in (name, *shared)]
        headers = [path.relative_to(_ROOT) for path in sorted(_ABI.glob("*.h"))]
        super().__init__(
            f"{_PACKAGE}.{name}",
            sources=list(map(str, paths)),
            depends=list(map(str, headers)),
            libraries=["m"],
            # Sums in the same order everywhere: a checksum is compared.
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-ffp-contract=off"],
        )


APPLICATIONS = [Application(name, shared) for name, shared in _SHARED.items()]


class BuildApplications(build_ext):
    """``build_ext`` that links an ``Application`` as a program."""

    def get_ext_filename(self, fullname: str) -> str:
        """Where the file of an extension lies."""
        if isinstance(self.ext_map.get(fullname), Application):
            return str(Path(*fullname.split("."))) + SUFFIX
        other: str = super().get_ext_filename(fullname)  # type: ignore[no-untyped-call]
        return other

    def build_extension(self, ext: Extension) -> None:
        """Compile and link one."""
        if not isinstance(ext, Application):
            super().build_extension(ext)
            return
        objects = self.compiler.compile(
            ext.sources,
            output_dir=self.build_temp,
            extra_postargs=ext.extra_compile_args,
            depends=ext.depends,
        )
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_executable(objects, str(target), libraries=ext.libraries)
