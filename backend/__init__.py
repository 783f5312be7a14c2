"""Host half of the split drivers: ring service and memory mechanisms."""

import hypervisor.public  # noqa: F401 (it says what to do where nothing is compiled)
