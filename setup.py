"""cffi's build hook; everything else stands in pyproject.toml."""

from setuptools import setup

setup(
    cffi_modules=[
        "tmem/_build_calls.py:ffi",
        "frontend/_build_guest.py:ffi",
        "backend/_build_service.py:ffi",
        "memcoord/testbed/guests/_build_content.py:ffi",
        "memcoord/testbed/streams/_build_table.py:ffi",
        "memcoord/benchmarks/_build_loops.py:ffi",
    ]
)
