"""Goal: an image is made once, the same each time, and no state of the cache stops anybody.

Method: a package with a kernel that is none, made here; nothing is fetched and nothing boots.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervisor.public.errors import ConfigError
from memcoord.testbed.machines.image import build, cpio, debian, modules
from memcoord.testbed.machines.image.build import Recipe, image
from memcoord.testbed.machines.image.compiling import Program

KERNEL = b"\0" * build.HEAD_AT + build.HEAD + b"a kernel"
MAIN = b"int main(void) { return 0; }\n"


def module(*depends: str) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=x\0"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "memcoord" / "machines"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A kernel's file and modules, a busybox that is none, and one small program."""
    for name, content in {
        "vmlinuz": KERNEL,
        "small.c": MAIN,
        "busybox": b"\x7fELF busybox",
        "m/drivers/virtio/virtio.ko": module("virtio_ring"),
        "m/drivers/virtio/virtio_ring.ko": module(),
        "m/drivers/virtio/virtio_mem.ko.xz": lzma.compress(module("virtio", "virtio-ring")),
        "m/drivers/net/other.ko": module(),
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Recipe(
        kernel=str(tmp_path / "vmlinuz"),
        modules=str(tmp_path / "m"),
        busybox=str(tmp_path / "busybox"),
        programs=(Program("small", (tmp_path / "small.c",)),),
    )


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_same_inputs_give_the_same_bytes(recipe: Recipe) -> None:
    first = image(recipe)
    seen = (digest(first.kernel), digest(first.initrd))
    time.sleep(1.1)  # a time in seconds would differ
    again = image(recipe, again=True)
    assert (digest(again.kernel), digest(again.initrd)) == seen
    assert again.facts == first.facts


def test_modules_stand_behind_what_they_depend_on(recipe: Recipe) -> None:
    assert image(recipe).facts.modules == ("virtio_ring", "virtio", "virtio_mem")


def test_an_image_that_is_there_is_used(recipe: Recipe) -> None:
    told: list[str] = []
    first = image(recipe, told.append)
    assert told != []
    told.clear()
    assert image(recipe, told.append) == first
    assert told == []


def test_another_source_is_another_image(recipe: Recipe, tmp_path: Path) -> None:
    first = image(recipe)
    (tmp_path / "small.c").write_bytes(MAIN.replace(b"0", b"1"))
    assert image(recipe).initrd != first.initrd


def test_the_same_sources_elsewhere_are_the_same_image(recipe: Recipe, tmp_path: Path) -> None:
    first = image(recipe)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "small.c", tmp_path / "elsewhere" / "small.c")
    moved = Program("small", (tmp_path / "elsewhere" / "small.c",))
    keys = (recipe.kernel, recipe.modules, recipe.busybox)
    assert image(Recipe(*keys, (moved,))).initrd == first.initrd
    renamed = Program("other", moved.sources)
    assert image(Recipe(*keys, (renamed,))).initrd != first.initrd


@pytest.mark.parametrize("harm", ["cut", "changed", "gone", "facts", "empty facts"])
def test_a_damaged_image_is_made_again(recipe: Recipe, harm: str) -> None:
    first = image(recipe)
    before, told = digest(first.initrd), list[str]()
    initrd, facts = Path(first.initrd), Path(first.initrd).with_name(build.FACTS_FILE)
    if harm == "cut":
        initrd.write_bytes(initrd.read_bytes()[:100])
    elif harm == "changed":
        initrd.write_bytes(initrd.read_bytes() + b"x")
    elif harm == "gone":
        initrd.unlink()
    else:
        facts.write_bytes(b"{}" if harm == "facts" else b"")
    assert digest(image(recipe, told.append).initrd) == before
    assert any("compiling" in line for line in told)


def test_what_a_killed_build_has_left_is_removed(recipe: Recipe, cache: Path) -> None:
    (cache / "xyz.tmp" / "image").mkdir(parents=True)
    image(recipe)
    assert sorted(path.name.split("-")[0] for path in cache.iterdir()) == ["image", "lock"]


def test_two_builds_at_once_make_one_image(recipe: Recipe) -> None:
    told: list[str] = []
    threads = [threading.Thread(target=image, args=(recipe, told.append)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("compiling" in line for line in told) == 1


def test_old_images_go(recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    for number in range(build.IMAGES_MAX + 2):
        (tmp_path / "small.c").write_bytes(MAIN.replace(b"0", str(number).encode()))
        last = image(recipe)
    assert len(list(cache.glob("image-*"))) == build.IMAGES_MAX
    assert Path(last.initrd).exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kernel": "/nowhere/vmlinuz"}, "kernel: /nowhere/vmlinuz: no such file"),
        ({"kernel": "/etc/passwd"}, "no kernel of Linux"),
        ({"busybox": "/nowhere"}, "no static busybox; apt-get install"),
        ({"busybox": sys.executable}, "no static busybox"),
        ({"modules": "/nowhere"}, "no modules of devices"),
        ({"programs": (Program("p", (Path("/nowhere.c"),)),)}, "program p: /nowhere.c: No such"),
    ],
)
def test_what_is_missing_is_named(recipe: Recipe, change: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        image(
            Recipe(**{**{key: getattr(recipe, key) for key in recipe.__struct_fields__}, **change})
        )


def test_a_source_that_does_not_compile_says_where(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "small.c").write_bytes(b"int main(void) { return nothing; }\n")
    with pytest.raises(ConfigError, match=r"small\.c:1:.*nothing"):
        image(recipe)


def test_without_a_compiler_the_package_is_named(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="apt-get install gcc libc6-dev"):
        image(recipe)


@pytest.mark.parametrize("where", ["/proc/none", "/dev/null"])
def test_a_cache_that_cannot_be_written_says_what_to_set(
    recipe: Recipe, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", where)
    with pytest.raises(ConfigError, match="set XDG_CACHE_HOME to a folder with room"):
        image(recipe)


def build_command(recipe: Recipe) -> list[str]:
    options = ("--kernel", recipe.kernel, "--modules", str(recipe.modules))
    return [sys.executable, "-m", "memcoord", "vm", "build", *options]


@pytest.mark.process
def test_a_full_disk_is_one_line(recipe: Recipe, cache: Path) -> None:
    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    done = subprocess.run(
        [*build_command(recipe), "--busybox", str(recipe.busybox)],
        capture_output=True,
        text=True,
        preexec_fn=little_room,
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("memcoord: ")
    assert list(cache.glob("*.tmp")) == []


@pytest.mark.process
def test_a_killed_build_stops_nobody(recipe: Recipe, cache: Path) -> None:
    with subprocess.Popen([*build_command(recipe), "--busybox", str(recipe.busybox)]) as building:
        while building.poll() is None and not list(cache.glob("*.tmp")):
            time.sleep(0.005)
        building.kill()
    assert Path(image(recipe).initrd).exists()
    assert list(cache.glob("*.tmp")) == []


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")
def test_a_package_is_read_and_never_installed(recipe: Recipe, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = "Package: k\nVersion: 1.2\nArchitecture: all\nMaintainer: m\nDescription: d\n"
    (tree / "DEBIAN" / "control").write_text(control)
    shutil.copytree(str(recipe.modules), tree / "lib" / "modules" / "1" / "kernel")
    (tree / "boot").mkdir()
    (tree / "boot" / "vmlinuz-1").write_bytes(KERNEL)
    package = tmp_path / "k.deb"
    subprocess.run(["dpkg-deb", "--build", str(tree), str(package)], check=True, stdout=-3)
    made = image(Recipe(str(package), None, recipe.busybox, recipe.programs))
    assert made.facts.kernel == "k 1.2"
    assert made.facts.modules == ("virtio_ring", "virtio", "virtio_mem")
    package.write_bytes(package.read_bytes()[:-400])
    with pytest.raises(ConfigError, match="damaged"):
        image(Recipe(str(package), None, recipe.busybox, recipe.programs))


APT = """#!/bin/sh
case "$1" in
  depends) printf 'linux-image\\n  Depends: linux-image-9.1-cloud\\n';;
  *) echo 'E: Unable to locate package' >&2; exit 100;;
esac
"""


def test_a_mirror_that_has_nothing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("apt-cache", "apt-get"):
        (tmp_path / name).write_text(APT)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert debian.newest_kernel() == "linux-image-9.1-cloud"
    with pytest.raises(ConfigError, match="Unable to locate package; try `apt-get update` first"):
        debian.fetch("linux-image-9.1-cloud", tmp_path)


def test_a_circle_of_modules_ends() -> None:
    depends = {"virtio_mem": ("a",), "a": ("b",), "b": ("a", "built_in")}
    assert modules.in_order(depends) == ["b", "a", "virtio_mem"]


def test_a_module_that_is_packed_otherwise_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\.ko, \.ko\.xz are"):
        modules.module_bytes("a.ko.zst", b"")


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio")
def test_other_programs_read_the_archive(tmp_path: Path) -> None:
    made = cpio.archive(
        {"bin": cpio.folder(), "bin/p": cpio.program(b"run"), "a": cpio.file(b"text")}
    )
    read: Callable[..., subprocess.CompletedProcess[bytes]] = subprocess.run
    done = read(["cpio", "-id", "--quiet"], input=made, cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "bin" / "p").read_bytes() == b"run"
    assert os.access(tmp_path / "bin" / "p", os.X_OK)
    assert (tmp_path / "a").read_bytes() == b"text"
    assert io.BytesIO(made).read(6) == cpio.MAGIC
