/* layout.h: the meta region of a domain, word by word.
 *
 * Owns:  every size, offset and structure that two processes read in one mapping.
 * Rules: the hypervisor formats the region before any frontend maps it. After that, only the side
 *        named above a group of words writes them. The hypervisor never trusts a word that a
 *        frontend can write: it copies the word, checks the copy and uses the copy.
 * Who may use it: every C source of the project. Python sees the same structures through cffi, and
 *        the constants in hypervisor/public/constants.py, which _cdef.py writes.
 *
 * A domain has two memfds, both sealed against resizing:
 *
 *   ram    maxmem bytes; frame f lies at byte f * MC_FRAME_BYTES; no header.
 *   meta   control page | memory ring | tmem ring | trees | areas | rows | heads | slots
 *          (each section starts on a page; offsets stand in the control page)
 *
 *   A frame is 4 KiB, a row 64 frames, an area 512 frames = 2 MiB, a tree 16 areas = 32 MiB.
 */
#ifndef MC_LAYOUT_H
#define MC_LAYOUT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* cdef-begin */
#define MC_ABI_VERSION 1
#define MC_MAGIC 7237970075337975149
#define MC_FRAME_BYTES 4096
#define MC_FRAME_SHIFT 12
#define MC_ROW_FRAMES 64
#define MC_AREA_ROWS 8
#define MC_AREA_FRAMES 512
#define MC_AREA_BYTES 2097152
#define MC_TREE_AREAS 16
#define MC_SLOTS 16
#define MC_RING_SLOTS 64
#define MC_MAX_AREAS 32768
#define MC_AREA_ORDER 9
#define MC_MAX_DOMAINS 64
#define MC_MECHANISMS 6         /* members of enum mc_mechanism_id */
#define MC_OPTIONS_MAX 8        /* options of a mechanism */
#define MC_RECORD_ARGS 5
#define MC_CONFIG_WORDS 5
#define MC_DRIVER_WORDS 12
#define MC_LATENCY_BUCKETS 112  /* of latency.h: 256 ns to 64 s */
#define MC_LATENCY_LOW_SHIFT 8
#define MC_LATENCY_COUNTS 224   /* the buckets of two paths, ring and transfer (ops.h) */

/* One record of a ring, a request or a response; a response overwrites the slot of its request.
 * `seq` is the index under which the record was published, as the indices of a ring run: without
 * bound, modulo 2^32. A slot that was published before it was written has an older seq, and the
 * reader refuses it as torn. */
struct mc_record {
    uint16_t op;        /* enum mc_op */
    uint16_t flags;     /* op-specific; zero otherwise */
    uint32_t seq;
    uint64_t id;        /* a number of the requester's, returned unchanged */
    int64_t status;     /* response: >= 0 result, < 0 enum mc_status; request: zero */
    uint64_t arg[MC_RECORD_ARGS];   /* op-specific, see hypervisor/public/abi/ops.h */
};

/* A domain has two rings: requests for memory (and its mechanism's), and tmem's. */
#define MC_RINGS 2
enum mc_ring_id { MC_RING_MEMORY = 0, MC_RING_TMEM = 1 };

/* A shared ring (Xen's io/ring.h). All indices run freely and wrap at 2^32. */
struct mc_ring {
    /* [frontend writes] */
    _Atomic uint32_t req_prod;
    _Atomic uint32_t rsp_event;
    uint32_t pad0[14];
    /* [backend writes] */
    _Atomic uint32_t rsp_prod;
    _Atomic uint32_t req_event;
    uint32_t pad1[14];
    struct mc_record slots[MC_RING_SLOTS];
};

/* One tree [both sides write]: how many frames of its areas are free and not claimed, at most. */
struct mc_tree {
    _Atomic uint32_t free_frames;
    uint32_t pad[15];
};

/* One slot [frontend writes]: the row of frames that a thread has taken for itself. Only the thread
 * writes it, so a slot has a cache line of its own. */
struct mc_slot {
    _Atomic uint32_t owner;     /* the thread id of the owner, 0 when the slot is unclaimed */
    _Atomic uint32_t row;       /* index of the row held */
    _Atomic uint64_t free;      /* frames of that row not handed out, one bit each */
    uint32_t cursor;            /* area at which the next search starts */
    uint32_t pad0;
    uint64_t allocs;            /* frames handed out */
    uint64_t frees;             /* frames taken back */
    uint64_t refills;           /* rows taken from the shared bitfield */
    uint64_t prepares;          /* areas installed or mapped before use */
    uint64_t pad1;
};

/* The control page: first page of meta. */
struct mc_control {
    /* [hypervisor writes once, before attach] */
    uint64_t magic;
    uint32_t abi_version;
    uint32_t domid;
    uint32_t areas;             /* maxmem in areas */
    uint32_t trees;
    uint32_t slots;
    uint32_t ring_slots;
    uint64_t meta_bytes;
    uint64_t ram_bytes;
    uint64_t memory_ring_offset;
    uint64_t tmem_ring_offset;
    uint64_t trees_offset;
    uint64_t areas_offset;
    uint64_t rows_offset;
    uint64_t heads_offset;
    uint64_t slots_offset;
    uint64_t pad0[3];
    /* [hypervisor writes at any time] */
    _Atomic uint64_t heartbeat;         /* rises with every coordinator tick */
    _Atomic uint64_t current_frames;    /* frames that the domain holds */
    _Atomic uint64_t target_frames;     /* frames that the policy wants it to hold */
    _Atomic uint64_t tmem_target_pages; /* pages it may have in tmem (SmarTmem's mm_target) */
    _Atomic uint32_t hypervisor_cpu;    /* CPU of the service loop, for the spin decision */
    _Atomic uint32_t state;             /* enum mc_state */
    _Atomic uint32_t guest_bell;        /* futex: rises when responses wait in a ring */
    _Atomic uint32_t credit_bell;       /* futex: rises when credit areas were granted */
    uint64_t pad1[2];
    /* [frontend writes at any time; the hypervisor only reports these, never decides from them]
     * A signed one is -1 until the guest reports it, which is not 0. */
    _Atomic int64_t used_frames;        /* frames the guest really uses */
    _Atomic int64_t faults;
    _Atomic int64_t swap_ins;
    _Atomic int64_t swap_outs;
    _Atomic int64_t references;
    _Atomic uint64_t credit_taken;      /* areas that the guest has begun to use */
    _Atomic uint64_t credit_dry;        /* allocations that found no area and had to ask */
    _Atomic uint32_t frontend_cpu;      /* CPU of the thread that last waited on a ring */
    _Atomic uint32_t frontend_pid;
    _Atomic uint32_t guest_waiters;     /* threads asleep on guest_bell */
    _Atomic uint32_t credit_waiters;    /* threads asleep on credit_bell */
    _Atomic int64_t committed_frames;   /* pages of its programs, wherever they are; -1: unknown */
    _Atomic int64_t stall_ns;           /* time its programs stood still for want of memory */
    _Atomic int64_t idle_permille;      /* thousandths of its pages that it does not use lately;
                                         * -1: unknown */
    uint64_t pad2[4];
    /* [hypervisor writes before attach] the device through which the domain is resized */
    uint32_t mechanism;                 /* enum mc_mechanism_id */
    uint32_t granule_frames;            /* smallest step of a target */
    uint32_t backing;                   /* enum mc_backing_kind: how ram is to be mapped */
    uint32_t boot_areas;                /* as many areas, from area 0 on, are granted at boot */
    uint64_t options[MC_OPTIONS_MAX];   /* of the mechanism, in the order it declares them */
    uint32_t credit_areas;              /* areas that it keeps granted ahead of need */
    uint32_t booked_only;               /* 1: it books memory that lies elsewhere; ram has none */
    uint64_t pad3[5];
    /* [hypervisor writes at any time] its configuration: any change raises config_bell */
    _Atomic uint32_t config_bell;       /* futex */
    _Atomic uint32_t boots;             /* the domain's lives, from 1; 0 while meta is laid out */
    _Atomic uint64_t requested_frames;  /* the size that the driver is asked to come to */
    _Atomic uint64_t plugged_frames;    /* the size that the domain has, as the host counts it */
    uint64_t config[MC_CONFIG_WORDS];   /* the mechanism's own, see its header; by __atomic_* */
    /* [frontend's driver writes; reported, and decided from where a mechanism's header says so] */
    _Atomic uint32_t config_waiters;    /* threads asleep on config_bell */
    _Atomic uint32_t config_seen;       /* the config_bell that the driver acted upon last */
    _Atomic int32_t driver_status;      /* how that ended: enum mc_step, or an enum mc_status */
    _Atomic uint32_t let_go;            /* 1: the guest uses its ram no more; it may be punched */
    _Atomic uint64_t file_frames;       /* page cache that could be dropped */
    _Atomic uint64_t migrated_frames;   /* used frames moved out of the way so far */
    uint64_t driver[MC_DRIVER_WORDS];   /* the mechanism's own: statistics; by __atomic_* */
    /* [frontend writes; only reported] requests for memory that got some, by the time that the
     * allocation waited: latency.h */
    uint32_t waits[MC_LATENCY_COUNTS];
};

/* How a domain is resized: a file mech_<name>.c in backend/abi, drv_<name>.c in frontend/abi. */
enum mc_mechanism_id {
    MC_DIRECT = 0, MC_BALLOON = 1, MC_VIRTIO_MEM = 2, MC_SECTIONS = 3, MC_CMM = 4,
    MC_HYPERALLOC = 5
};

/* The pages that a domain's ram should be made of. A bench measures what it is made of. */
enum mc_backing_kind { MC_BACKING_ANY = 0, MC_BACKING_4K = 1, MC_BACKING_2M = 2 };

/* How a driver's step ended. A negative status instead says why the driver cannot go on. */
enum mc_step { MC_STEP_DONE = 0, MC_STEP_MORE = 1 };

enum mc_state { MC_STATE_CLOSED = 0, MC_STATE_OPEN = 1, MC_STATE_BROKEN = 3 };

/* Every failure that a C function of the project reports; the functions' comments say which of them
 * they return. A result of 0 or above is a success. */
enum mc_status {
    MC_OK = 0,
    MC_ENOMEM = -1,         /* nothing left that this caller may have */
    MC_EINDEX = -2,         /* frame, area, slot or order out of range, or misaligned */
    MC_EORDER = -3,         /* the block was allocated with another order */
    MC_EDOUBLE = -4,        /* the block is free already */
    MC_ENEVER = -5,         /* the frame was never handed out */
    MC_ESLOT = -6,          /* slot not claimed, or none left */
    MC_ESTATE = -7,         /* area not in the state this transition starts from */
    MC_ELAYOUT = -8,        /* magic, version, size or offset of the control page is wrong */
    MC_ERUNAWAY = -9,       /* a producer index ran past the ring */
    MC_ETORN = -10,         /* a record was published before it was written */
    MC_EFULL = -11,         /* ring full */
    MC_ETIMEOUT = -12,      /* the other side did not act in time */
    MC_EGONE = -13,         /* the other side is gone */
    MC_EOP = -14,           /* no such operation, or not one of this domain's mechanism */
    MC_EFOREIGN = -15,      /* the domain does not hold the frame that it named */
    MC_EPERM = -17,         /* the memory is pinned for DMA */
    MC_ETARGET = -18,       /* refused: the domain's target or mm_target is reached */
    MC_EKERNEL = -19,       /* a system call failed; errno says how */
    MC_EBROKEN = -20        /* validate() found a violated invariant */
};
/* cdef-end */

_Static_assert(sizeof(struct mc_record) == 64, "one record is one cache line");
_Static_assert(offsetof(struct mc_ring, rsp_prod) == 64, "producers on lines of their own");
_Static_assert(offsetof(struct mc_ring, slots) == 128, "ring header is two lines");
_Static_assert(sizeof(struct mc_tree) == 64, "one tree is one cache line");
_Static_assert(sizeof(struct mc_slot) == 64, "one slot is one cache line");
_Static_assert(offsetof(struct mc_control, heartbeat) % 64 == 0, "groups on lines of their own");
_Static_assert(offsetof(struct mc_control, used_frames) % 64 == 0, "groups on lines of their own");
_Static_assert(offsetof(struct mc_control, mechanism) % 64 == 0, "groups on lines of their own");
_Static_assert(offsetof(struct mc_control, config_bell) % 64 == 0, "groups on lines of their own");
_Static_assert(offsetof(struct mc_control, config_waiters) % 64 == 0, "lines of their own");
_Static_assert(offsetof(struct mc_control, waits) % 64 == 0, "groups on lines of their own");
_Static_assert(sizeof(struct mc_control) <= MC_FRAME_BYTES, "the control page is one page");
_Static_assert(MC_AREA_ROWS * MC_ROW_FRAMES == MC_AREA_FRAMES, "rows fill an area");
_Static_assert(MC_AREA_FRAMES * MC_FRAME_BYTES == MC_AREA_BYTES, "frames fill an area");
_Static_assert((MC_RING_SLOTS & (MC_RING_SLOTS - 1)) == 0, "a ring index wraps by a mask");
_Static_assert(MC_LATENCY_COUNTS == 2 * MC_LATENCY_BUCKETS, "two paths are waited for");
_Static_assert(MC_MECHANISMS == MC_HYPERALLOC + 1, "mechanisms as named");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2,
               "shared words are lock-free");

#endif
