"""Hypervisor processes for tests, ended with the test; what guests in QEMU boot."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypervisor_host import AREA, Host

from hypervisor.config import HypervisorConfig
from hypervisor.public.errors import ConfigError
from memcoord.testbed.machines.command_line import PROGRAM
from memcoord.testbed.machines.image import debian
from memcoord.testbed.machines.image.build import Image, image


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def make(**config: Any) -> Host:
        settings = {"total_frames": 32 * AREA, "open_attach": True, "interval_ms": 50, **config}
        hosts.append(Host(tmp_path_factory.mktemp("hv"), HypervisorConfig(**settings)))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


@pytest.fixture(scope="session")
def guest_image() -> Image:
    """What a guest boots; the test is skipped where it or QEMU cannot be had."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"no {PROGRAM}: apt-get install {' '.join(debian.PACKAGES)}")
    try:
        return image()
    except ConfigError as error:
        pytest.skip(f"no image of a guest: {error}")
