"""A domain whose forked child attaches and takes what nobody granted. Run by ``test_isolation``.

Prints, for itself and the child, the number of the process outside of its namespace.
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path

import frontend
from hypervisor.public.units import AREA_BYTES

AREAS = 4


def main() -> None:
    """Entry point of the process."""
    told = json.loads(Path(sys.argv[1]).read_text())
    child = os.fork()
    os.write(1, f"{os.readlink('/proc/self')}\n".encode())
    if child == 0:
        domain = frontend.attach(told["run_dir"], "attacker", token=told["token"])
        until = time.monotonic() + 600
        while time.monotonic() < until:
            ctypes.memset(domain.address, 1, AREAS * AREA_BYTES)
    time.sleep(600)


if __name__ == "__main__":
    main()
