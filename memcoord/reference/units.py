"""The page of units: how sizes are written, what the last word of a name says.

Owns: the table of suffixes.
"""

from __future__ import annotations

from hypervisor.public.units import AREA_BYTES, AREA_FRAMES, FRAME_BYTES, SIZES
from memcoord.reference.markdown import code, page, table

#: The last word of a name -> its unit.
SUFFIXES = {
    "_frames": f"frames of RAM, {FRAME_BYTES:,} bytes each",
    "_pages": f"pages of tmem, {FRAME_BYTES:,} bytes each",
    "_areas": f"areas, {AREA_FRAMES} frames or {AREA_BYTES >> 20} MiB each",
    "_bytes": "bytes",
    "_ns, _us, _ms, _s": "nanoseconds to seconds",
    "_permille": "thousandths",
    "_share": "a part of 1",
    "_per_s": "per second",
}


def unit_page() -> str:
    """Units of sizes, names and prefixes."""
    sizes = [(code(f"{unit}"), f"{count:,}") for unit, count in SIZES.items() if unit]
    return page(
        "Units",
        "Where a key or an option is a size, it is a number and a unit, with or without a space "
        "between: `64 MiB`, `1.5GiB`, `512 pages`. Without a unit it is bytes; where a verb asks a "
        "live hypervisor for frames or pages, it is a number of those. A size of a scenario is a "
        f"whole number of frames, a multiple of {FRAME_BYTES:,} bytes.",
        table(("unit", "bytes"), sizes),
        "The last word of a name says its unit; a name without one is a count.",
        table(
            ("name ends in", "unit"),
            [(", ".join(map(code, name.split(", "))), unit) for name, unit in SUFFIXES.items()],
        ),
        "From Python (`memcoord.open_run`) sizes are bytes and times are seconds; -1 has become "
        "NaN where nothing is known, and infinite where a target has no limit.",
        "Prefixes are binary: 1 KiB is 1,024 bytes, 1 MiB is 1,024 KiB.",
    )
