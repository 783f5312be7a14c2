"""The mechanisms and their options, as the table in C (``backend/abi/mechanism.h``) has them.

Owns: the check of options, for ``HostBackend`` and for whoever reads a configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from backend._service import ffi, lib
from hypervisor.public.errors import ConfigError
from hypervisor.public.settings import MECHANISMS, DomainSettings


def mechanism_of(name: str) -> Any:
    """The ``struct mc_mechanism`` of that name; ConfigError for an unknown one."""
    if name not in MECHANISMS:
        raise ConfigError("mechanism", f"{name!r} is none of {', '.join(MECHANISMS)}")
    return lib.mc_mechanism(MECHANISMS.index(name))


def option_values(name: str, given: Mapping[str, int]) -> list[int]:
    """The options of the mechanism ``name`` in C's order, ``given`` over defaults; ConfigError."""
    declared = {ffi.string(o.name).decode(): o for o in mechanism_of(name).options if o.name}
    for key, value in given.items():
        if key not in declared:
            why = f"{name} has no such option; it has {', '.join(declared) or 'none'}"
            raise ConfigError(f"options.{key}", why)
        least, most = declared[key].least, declared[key].most
        if not least <= value <= most:
            raise ConfigError(f"options.{key}", f"must be {least} to {most}")
    return [given.get(key, option.value) for key, option in declared.items()]


def check_options(domains: Iterable[DomainSettings], key: str) -> None:
    """ConfigError, its key a path from ``key``, for an option some domain's mechanism has not."""
    for index, domain in enumerate(domains):
        try:
            option_values(domain.mechanism, domain.options)
        except ConfigError as error:
            raise ConfigError(f"{key}[{index}].{error.key}", error.why) from None
