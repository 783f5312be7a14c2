"""The image that guests boot: made once, kept in the user's cache, checked whenever it is used.

Owns: the recipe, what goes into the file system, and the cache: ``machines/image-HASH`` below the
folder of everything that this project caches. The hash covers the recipe, our sources and busybox,
so a change of any of them makes another image. A newer kernel of the distribution does not: an
image that is there is used without asking anybody, until ``again``.

No state of the cache stops a caller. One process builds at a time, and the others wait for it; a
build that is killed leaves a folder that the next one removes; a file that is damaged is noticed by
its digest and the image is made again. The same packages, sources and compiler give the same bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from hypervisor.public.documents import UNREADABLE
from hypervisor.public.errors import ConfigError
from memcoord.testbed import applications
from memcoord.testbed.machines.image import cpio, debian, modules
from memcoord.testbed.machines.image.compiling import HERE, Program, compiled, is_static
from tmem import compiled_cache

FORM = 1
#: Where the programs lie that come with memcoord, and what they share.
APPLICATIONS = Path(applications.__file__).parent / "abi"
SHARED_SOURCES = {
    "als": ("app", "pattern", "sparse"),
    "pagerank": ("app", "pattern", "sparse"),
    "usemem": ("app",),
}
#: Of what every image has. Rooms above add theirs to a recipe.
PROGRAMS = (
    Program("agent", (HERE / "agent.c", HERE / "readings.c")),
    *(
        Program(name, tuple(APPLICATIONS / f"{part}.c" for part in (name, *shared)))
        for name, shared in SHARED_SOURCES.items()
    ),
)
FOLDERS = ("bin", "dev", "proc", "sys", "tmp", "modules", "root", "etc")
BUSYBOX = (Path("/bin/busybox"), Path("/usr/bin/busybox"))
KERNEL_FILE, INITRD_FILE, FACTS_FILE, LOCK_FILE = "vmlinuz", "initrd", "image.json", "lock"
#: Room that a build needs in the cache for a moment, for the message of a disk that is full.
BUILD_BYTES = 64 << 20
#: How long a build waits for another one, and how many images are kept.
LOCK_S, POLL_S, IMAGES_MAX = 600.0, 0.2, 4

#: How a kernel begins that a boot loader takes, and one that is not packed.
HEAD_AT, HEAD, ELF = 0x202, b"HdrS", b"\x7fELF"

Tell = Callable[[str], None]


class Recipe(msgspec.Struct, frozen=True):
    """What an image is made of.

    ``kernel``: a package of Debian by its name, a file of one, or the file of a kernel, whose
    modules then lie below ``modules`` (without: whatever guests need is built into it).
    """

    kernel: str = debian.KERNEL
    modules: str | None = None
    busybox: str | None = None
    programs: tuple[Program, ...] = PROGRAMS


class Facts(msgspec.Struct, frozen=True):
    """What is in an image, and the digests of its files."""

    kernel: str
    modules: tuple[str, ...]
    programs: dict[str, str]  # name -> digest
    digests: dict[str, str]  # file -> digest


class Image(msgspec.Struct, frozen=True):
    """Files to boot, and what is in them."""

    kernel: str
    initrd: str
    facts: Facts


def image(
    recipe: Recipe | None = None, tell: Tell = lambda line: None, again: bool = False
) -> Image:
    """The image of a recipe, made if it is not there; ``tell`` hears what takes time.

    ConfigError names what is missing or in the way, and what to do.
    """
    recipe = recipe or Recipe()
    busybox = busybox_of(recipe)
    try:
        home = compiled_cache.home() / "machines"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = home / f"image-{_digest_of(recipe, busybox)}"
        found = None if again else _kept(place, tell)
        if found is None:
            with _locked(home, tell):
                found = None if again else _kept(place, lambda line: None)  # another made it
                found = found or _made(recipe, busybox, place, tell)
        return found
    except RuntimeError:  # there is no home directory
        raise ConfigError("cache", "set XDG_CACHE_HOME to a folder that you may write in") from None
    except OSError as error:
        where = error.filename or compiled_cache.home()
        why = f"{where}: {error.strerror}; a build needs {BUILD_BYTES >> 20} MiB there: set"
        raise ConfigError("cache", f"{why} XDG_CACHE_HOME to a folder with room") from None


def built() -> Image | None:
    """The image of the usual recipe, if it is there and whole; nothing is made."""
    recipe = Recipe()
    try:
        home = compiled_cache.home() / "machines"
        return _kept(home / f"image-{_digest_of(recipe, busybox_of(recipe))}", lambda line: None)
    except (ConfigError, OSError, RuntimeError):
        return None


def _kept(place: Path, tell: Tell) -> Image | None:
    """The image that was made at a place; None when there is none, or it is damaged."""
    try:
        facts = msgspec.json.decode((place / FACTS_FILE).read_bytes(), type=Facts)
        whole = all(facts.digests[name] == _digest(place / name) for name in _FILES)
    except FileNotFoundError:
        return None
    except (OSError, KeyError, *UNREADABLE):
        whole = False
    if not whole:
        tell("the image in the cache is damaged and is made again")
        return None
    os.utime(place)  # the ones that are not used go first
    return Image(str(place / KERNEL_FILE), str(place / INITRD_FILE), facts)


_FILES = (KERNEL_FILE, INITRD_FILE)


def _made(recipe: Recipe, busybox: bytes, place: Path, tell: Tell) -> Image:
    """Build the image in a folder beside its place, and move it there. Under the lock."""
    for left in place.parent.glob("*.tmp"):  # of one that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=place.parent, suffix=".tmp") as name:
        folder = Path(name)
        kernel, version, found = _kernel(recipe, folder, tell)
        tell(f"compiling {', '.join(one.name for one in recipe.programs)}")
        programs = {one.name: compiled(one) for one in recipe.programs}
        order = modules.in_order({one: modules.depends_on(data) for one, data in found.items()})
        new = folder / "image"
        new.mkdir()
        (new / KERNEL_FILE).write_bytes(kernel)
        (new / INITRD_FILE).write_bytes(_initrd(busybox, programs, order, found))
        facts = Facts(
            kernel=version,
            modules=tuple(order),
            programs={one: _hash(data) for one, data in programs.items()},
            digests={name: _digest(new / name) for name in _FILES},
        )
        (new / FACTS_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(facts)))
        if place.exists():
            place.rename(folder / "old")
        new.rename(place)
    _forget_old(place.parent)
    return Image(str(place / KERNEL_FILE), str(place / INITRD_FILE), facts)


def _initrd(
    busybox: bytes, programs: dict[str, bytes], order: list[str], found: dict[str, bytes]
) -> bytes:
    """The file system. It is not packed: a guest that is emulated would be slow to unpack it."""
    entries = {name: cpio.folder() for name in FOLDERS}
    entries |= {f"bin/{name}": cpio.program(data) for name, data in programs.items()}
    entries |= {f"modules/{name}.ko": cpio.file(found[name]) for name in order}
    entries["modules/order"] = cpio.file("".join(f"{name}\n" for name in order).encode())
    entries["bin/busybox"] = cpio.program(busybox)
    entries["init"] = cpio.program((HERE / "init").read_bytes())
    entries["dev/console"] = cpio.console()
    return cpio.archive(entries)


def _kernel(recipe: Recipe, folder: Path, tell: Tell) -> tuple[bytes, str, dict[str, bytes]]:
    """The kernel, its version, and its modules by name."""
    given = Path(recipe.kernel)
    if "/" in recipe.kernel or given.exists():
        if not given.is_file():
            raise ConfigError("kernel", f"{given}: no such file")
        if given.suffix != ".deb":
            kernel = _read("kernel", given)
            if kernel[HEAD_AT : HEAD_AT + len(HEAD)] != HEAD and not kernel.startswith(ELF):
                raise ConfigError("kernel", f"{given} is no kernel of Linux that QEMU boots")
            return kernel, str(given), _modules_below(recipe.modules)
        package = given
    else:
        wanted = debian.newest_kernel(recipe.kernel)
        tell(f"fetching {wanted} from this machine's mirror")
        fetched = folder / "package"
        fetched.mkdir()
        package = debian.fetch(wanted, fetched)
    tell(f"unpacking {package.name}")
    kernel, found = b"", {}
    for path, content in debian.files_in(package):
        if path.startswith("boot/vmlinuz-"):
            kernel = content
        elif (name := modules.module_name(path)) is not None and _is_wanted(path):
            found[name] = modules.module_bytes(path, content)
    if not kernel:
        raise ConfigError("kernel", f"{package} has no kernel in it")
    return kernel, debian.version_of(package), found


def _is_wanted(path: str) -> bool:
    """Whether a module is one of the few kinds that guests may need."""
    return any(kind in path for kind in ("/virtio", "/block/", "/pvpanic/", "/zs", "/lib/", "/mm/"))


def _modules_below(folder: str | None) -> dict[str, bytes]:
    if folder is None:
        return {}
    paths = [path for path in Path(folder).rglob("*.ko*") if _is_wanted(str(path))]
    if not paths:
        raise ConfigError("modules", f"no modules of devices lie below {folder}")
    named = ((modules.module_name(path.name), path) for path in paths)
    return {
        name: modules.module_bytes(path.name, _read("modules", path))
        for name, path in named
        if name
    }


def busybox_of(recipe: Recipe) -> bytes:
    """The static busybox of this machine; ConfigError."""
    given = () if recipe.busybox is None else (Path(recipe.busybox),)
    for path in given or BUSYBOX:
        if path.is_file():
            content = _read("busybox", path)
            if is_static(content):
                return content
    advice = f"apt-get install {debian.BUSYBOX}"
    raise ConfigError("busybox", f"there is no static busybox; {advice}, or give --busybox")


def _read(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(key, f"{path}: {error.strerror}") from None


@contextlib.contextmanager
def _locked(home: Path, tell: Tell) -> Iterator[None]:
    """Be the only process that builds; ConfigError when another takes longer than any build."""
    with (home / LOCK_FILE).open("wb") as lock:
        deadline, waits = time.monotonic() + LOCK_S, False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    why = f"another build holds {lock.name} for {LOCK_S:.0f} s; end it"
                    raise ConfigError("cache", why) from None
            if not waits:
                tell("waiting for another build")
            waits = True
            time.sleep(POLL_S)
        yield


def _forget_old(home: Path) -> None:
    made = sorted(home.glob("image-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in made[IMAGES_MAX:]:
        shutil.rmtree(old, ignore_errors=True)


def _digest_of(recipe: Recipe, busybox: bytes) -> str:
    named = (FORM, modules.WANTED, recipe.kernel, recipe.modules)
    seen = hashlib.blake2b(repr(named).encode(), digest_size=8)
    seen.update(busybox)
    seen.update((HERE / "init").read_bytes())
    for program in recipe.programs:  # wherever its sources lie
        seen.update(program.name.encode() + b"\0")
        for text in program.texts():
            seen.update(hashlib.blake2b(text).digest())
    for path in (recipe.kernel, recipe.modules):
        if path is not None and os.path.exists(path):
            status = os.stat(path)
            seen.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return seen.hexdigest()


def _digest(path: Path) -> str:
    return _hash(path.read_bytes())


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
