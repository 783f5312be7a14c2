"""Packages of Debian: where a kernel and busybox come from.

Owns: every call of apt and dpkg, each with a limit of time. A package is fetched from the mirror of
this machine, whose signatures apt checks, and read; nothing is installed, and nothing needs root.
Called by ``build`` alone: nothing is fetched when a guest runs.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hypervisor.public.errors import ConfigError

#: Depends on the newest kernel that Debian has for virtual machines.
KERNEL = "linux-image-cloud-amd64"
KERNEL_PACKAGE = re.compile(r"^\s*\|?Depends: (linux-image-\d\S+)", re.MULTILINE)
BUSYBOX = "busybox-static"
#: What `apt-get install` gets from an operator who wants guests.
PACKAGES = ("qemu-system-x86", BUSYBOX, "gcc", "libc6-dev")
LIST_S, FETCH_S = 60.0, 300.0
#: A mirror that is not there is given up after this, not after apt's minutes.
APT = ("-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1")
PACKAGE_BYTES_MAX = 1 << 30


class NoPackage(ConfigError):
    """A package cannot be had; the message says what to do."""


def newest_kernel(package: str = KERNEL) -> str:
    """The package that ``package`` stands for, with a kernel in it; NoPackage."""
    if re.match(r"linux-image-\d", package):
        return package
    found = KERNEL_PACKAGE.search(_called(("apt-cache", "depends", package), LIST_S, package))
    if found is None:
        raise NoPackage("kernel", f"{package} depends on no kernel; give one by --kernel")
    return found[1]


def fetch(package: str, folder: Path) -> Path:
    """Fetch a package from this machine's mirror into an empty folder; NoPackage."""
    _called(("apt-get", *APT, "download", package), FETCH_S, package, folder)
    found = sorted(folder.glob("*.deb"))
    if len(found) != 1:
        raise NoPackage(package, "apt-get download has left no package; look at its sources")
    return found[0]


def version_of(package: Path) -> str:
    """Name and version of a package file, as dpkg writes them; NoPackage when it is none."""
    form = "--showformat=${Package} ${Version}"
    return _called(("dpkg-deb", "--show", form, str(package)), LIST_S, str(package)).strip()


def files_in(package: Path) -> Iterator[tuple[str, bytes]]:
    """Every regular file of a package, by its path; NoPackage when it is damaged."""
    if shutil.which("dpkg-deb") is None:
        raise NoPackage(str(package), "dpkg-deb is not there; apt-get install dpkg")
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as unpacking:
        assert unpacking.stdout is not None
        try:
            with tarfile.open(fileobj=unpacking.stdout, mode="r|") as files:
                for member in files:
                    if member.isreg() and member.size <= PACKAGE_BYTES_MAX:
                        content = files.extractfile(member) or io.BytesIO()
                        yield member.name.removeprefix("./"), content.read()
        except (tarfile.TarError, EOFError):
            raise NoPackage(str(package), "is damaged, or no package of Debian") from None
        finally:
            unpacking.stdout.close()
            unpacking.kill()


def _called(words: Sequence[str], limit_s: float, what: str, folder: Path | None = None) -> str:
    """What a program of apt prints; NoPackage with its last line when it fails."""
    if shutil.which(words[0]) is None:
        raise NoPackage(what, f"{words[0]} is not there; give --kernel, --modules and --busybox")
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        why = f"{words[0]} was not done in {limit_s:.0f} s; is the mirror reachable?"
        raise NoPackage(what, why) from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        last = lines[-1] if lines else f"{words[0]} has failed"
        advice = "" if "apt-get update" in last else "; try `apt-get update` first"
        raise NoPackage(what, f"{last.removeprefix('E: ')}{advice}")
    return done.stdout
