/* ops.h: what the records of the two rings mean.
 *
 * Memory ring. A domain may use the operations of its own mechanism; any other gets MC_EOP. These
 * four are `direct`'s. Each other mechanism has a header for its own (balloon.h, virtio_mem.h,
 * sections.h, cmm.h, hyperalloc.h).
 *   NOP       -                                    -> 0; measures the ring
 *   GROW      arg0 areas wanted (1..64)            -> areas granted (>= 1), arg0 path of the last
 *                                                     (enum mc_path); or ENOMEM, ETARGET
 *   RELEASE   arg0 areas offered (1..64)           -> areas taken from the domain's free ones
 *   INSTALL   arg0 area                            -> 0 when backed now; ENOMEM, EFOREIGN
 *
 * tmem ring; pages are copied by the hypervisor, from or to a frame of the domain's ram
 *
 *   word     PUT / GET / FLUSH_PAGE                FLUSH_OBJECT        NEW_POOL      DESTROY_POOL
 *   arg[0]   pool (low 32) | index (high 32)       pool                flags         pool
 *   arg[1]   oid[0]                                oid[0]              uuid low      -
 *   arg[2]   oid[1]                                oid[1]              uuid high     -
 *   arg[3]   oid[2]                                oid[2]              -             -
 *   arg[4]   frame (PUT, GET)                      -                   -             -
 *   status   tmem's own code, Xen's values (tmem/codes.py), all >= -1001; a malformed record
 *            gets MC_TMEM_BAD + enum mc_status, so the two ranges never meet.
 */
#ifndef MC_OPS_H
#define MC_OPS_H

/* cdef-begin */
enum mc_op {
    MC_OP_NOP = 0,
    MC_OP_GROW = 1,
    MC_OP_RELEASE = 2,
    MC_OP_INSTALL = 3,
    MC_OP_PUT = 16,
    MC_OP_GET = 17,
    MC_OP_FLUSH_PAGE = 18,
    MC_OP_FLUSH_OBJECT = 19,
    MC_OP_NEW_POOL = 20,
    MC_OP_DESTROY_POOL = 21
};

/* Where the operations of each mechanism begin; 8 to each. */
enum mc_op_base {
    MC_OP_BALLOON = 32,
    MC_OP_VIRTIO_MEM = 40,
    MC_OP_SECTIONS = 48,
    MC_OP_CMM = 56,
    MC_OP_HYPERALLOC = 64
};

/* How an area came to a domain; every grant is counted under exactly one of these. */
#define MC_PATHS 4
enum mc_path { MC_PATH_CREDIT = 1, MC_PATH_RING = 2, MC_PATH_TRANSFER = 3 };

/* arg[0] of NEW_POOL, Xen's bits. A request without VERSION is refused. */
enum mc_pool_flag {
    MC_POOL_EPHEMERAL = 0,
    MC_POOL_PERSISTENT = 1,
    MC_POOL_SHARED = 2,
    MC_POOL_VERSION = 0x1000000
};

#define MC_GROW_AREAS_MAX 64
enum mc_tmem_bad { MC_TMEM_BAD = -2000 };
/* cdef-end */

#endif
