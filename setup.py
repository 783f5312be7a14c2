"""cffi's build hook, the pager's library, our programs; all else stands in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent))

from frontend.pager._build_pager import PAGER
from memcoord.testbed.applications._build_applications import APPLICATIONS, BuildApplications

setup(
    ext_modules=[PAGER, *APPLICATIONS],
    cmdclass={"build_ext": BuildApplications},
    cffi_modules=[
        "tmem/_build_calls.py:ffi",
        "frontend/_build_guest.py:ffi",
        "backend/_build_service.py:ffi",
        "memcoord/testbed/guests/_build_content.py:ffi",
        "memcoord/testbed/traces/_build_table.py:ffi",
        "memcoord/benchmarks/_build_loops.py:ffi",
    ],
)
