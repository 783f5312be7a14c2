"""How the command line says what the file of a trace looks like.

Owns: turning the options into a ``TraceForm``. Called by the verbs that read a trace.
"""

from typing import Any

from hypervisor.public.errors import ConfigError
from hypervisor.public.settings import convert
from hypervisor.public.units import parse_bytes
from memcoord.testbed.scenarios.trace_files import TraceForm

#: Key of a form -> the option that sets it.
OPTIONS = {
    "format": "--format",
    "columns": "--columns",
    "page_size": "--page-size",
    "hexadecimal": "--hex",
}


def form_of(format_: str, columns: str, page_size: str, hexadecimal: bool) -> TraceForm:
    """The form that the options describe; ConfigError names the one that is wrong."""
    raw: dict[str, Any] = {"format": format_, "columns": _columns(columns)}
    try:
        raw["page_size"] = parse_bytes(page_size) if page_size else 0
    except ValueError as error:
        raise ConfigError(OPTIONS["page_size"], str(error)) from None
    try:
        form = convert(raw | {"hexadecimal": hexadecimal}, TraceForm)
    except ConfigError as error:
        raise ConfigError(OPTIONS.get(error.key, error.key), error.why) from None
    for key, holds, why in form.form_wishes():
        if not holds:
            raise ConfigError(OPTIONS[key], why)
    return form


def _columns(text: str) -> dict[str, str]:
    """``page=lbn,op=cmd`` as a mapping; a name alone is the page's."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        what, equals, column = part.partition("=")
        what, column = (what.strip(), column.strip()) if equals else ("page", part)
        if what in found:
            raise ConfigError(OPTIONS["columns"], f"{what} is given twice")
        found[what] = column
    return found
