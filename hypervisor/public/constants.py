"""The constants and enums of the ABI's headers; written by ``python -m hypervisor.public._cdef``.

Owns: nothing. What a name means stands in ``hypervisor/public/abi``, where it begins with MC_, and
``RingId``, say, is ``enum mc_ring_id``.
Rules: do not edit; anybody may import it.
"""

# fmt: off
from enum import IntEnum, IntFlag
from typing import Final

ABI_VERSION: Final = 1
MAGIC: Final = 7237970075337975149
FRAME_BYTES: Final = 4096
FRAME_SHIFT: Final = 12
ROW_FRAMES: Final = 64
AREA_ROWS: Final = 8
AREA_FRAMES: Final = 512
AREA_BYTES: Final = 2097152
TREE_AREAS: Final = 16
SLOTS: Final = 16
RING_SLOTS: Final = 64
MAX_AREAS: Final = 32768
AREA_ORDER: Final = 9
MAX_DOMAINS: Final = 64
MECHANISMS: Final = 6
OPTIONS_MAX: Final = 8
RECORD_ARGS: Final = 5
CONFIG_WORDS: Final = 5
DRIVER_WORDS: Final = 12
LATENCY_BUCKETS: Final = 112
LATENCY_LOW_SHIFT: Final = 8
LATENCY_COUNTS: Final = 224
RINGS: Final = 2
PATHS: Final = 4
GROW_AREAS_MAX: Final = 64
TMEM_BAD: Final = -2000
AREA_FREE_MASK: Final = 1023
AREA_HUGE: Final = 1024
AREA_EVICTED: Final = 2048
AREA_RECLAIMED: Final = 4096
AREA_ISOLATED: Final = 8192
HEAD_NEVER: Final = 0
HEAD_BODY: Final = 64
HEAD_FREED: Final = 128
HEAD_AREAS: Final = 10
MAX_ROW_ORDER: Final = 8
PREPARE_TRIES_MAX: Final = 4
RECLAIM_RETRIES_MAX: Final = 64
MEND_LOOKS_MAX: Final = 256
SPIN_MAX_NS: Final = 20000
RECORD_FORMAT: Final = "<HHIQq5Q"
RECORD_BYTES: Final = 64
RECORD_STATUS_OFFSET: Final = 16

RingId = IntEnum("RingId", {"MEMORY": 0, "TMEM": 1})
MechanismId = IntEnum("MechanismId", {"DIRECT": 0, "BALLOON": 1, "VIRTIO_MEM": 2, "SECTIONS": 3,
    "CMM": 4, "HYPERALLOC": 5})
BackingKind = IntEnum("BackingKind", {"BACKING_ANY": 0, "BACKING_4K": 1, "BACKING_2M": 2})
Step = IntEnum("Step", {"DONE": 0, "MORE": 1})
State = IntEnum("State", {"CLOSED": 0, "OPEN": 1, "BROKEN": 3})
Status = IntEnum("Status", {"OK": 0, "ENOMEM": -1, "EINDEX": -2, "EORDER": -3, "EDOUBLE": -4,
    "ENEVER": -5, "ESLOT": -6, "ESTATE": -7, "ELAYOUT": -8, "ERUNAWAY": -9, "ETORN": -10,
    "EFULL": -11, "ETIMEOUT": -12, "EGONE": -13, "EOP": -14, "EFOREIGN": -15, "EPERM": -17,
    "ETARGET": -18, "EKERNEL": -19, "EBROKEN": -20})
Op = IntEnum("Op", {"NOP": 0, "GROW": 1, "RELEASE": 2, "INSTALL": 3, "PUT": 16, "GET": 17,
    "FLUSH_PAGE": 18, "FLUSH_OBJECT": 19, "NEW_POOL": 20, "DESTROY_POOL": 21})
OpBase = IntEnum("OpBase", {"BALLOON": 32, "VIRTIO_MEM": 40, "SECTIONS": 48, "CMM": 56,
    "HYPERALLOC": 64})
Path = IntEnum("Path", {"CREDIT": 1, "RING": 2, "TRANSFER": 3})
PoolFlag = IntFlag("PoolFlag", {"EPHEMERAL": 0, "PERSISTENT": 1, "SHARED": 2, "VERSION": 16777216})
