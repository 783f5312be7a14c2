"""The mechanisms and their options, as the table in C (``backend/abi/mechanism.h``) has them.

Owns: the check of options, for ``HostBackend`` and for all who read a configuration.
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
    options = mechanism_of(name).options
    values = [option.value for option in options]
    places = {
        ffi.string(option.name).decode(): i for i, option in enumerate(options) if option.name
    }
    for key, value in given.items():
        if key not in places:
            known = ", ".join(places) or "none"
            raise ConfigError(f"options.{key}", f"no option of {name}, which has {known}")
        option = options[places[key]]
        if not option.least <= value <= option.most:
            raise ConfigError(f"options.{key}", f"must be {option.least} to {option.most}")
        values[places[key]] = value
    return values


def check_options(domains: Iterable[DomainSettings], key: str) -> None:
    """ConfigError, its key a path from ``key``, for an option some domain's mechanism has not."""
    for index, domain in enumerate(domains):
        try:
            option_values(domain.mechanism, domain.options)
        except ConfigError as error:
            raise ConfigError(f"{key}[{index}].{error.key}", error.why) from None
