"""Hypervisor processes for tests, ended with the test."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypervisor_host import AREA, Host

from hypervisor.config import HypervisorConfig


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
