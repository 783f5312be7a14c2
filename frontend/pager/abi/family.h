/* family.h: what the programs of one domain share with one another and with `memcoord exec`.
 *
 * Owns:  the layout of the family's memfd, and a process's view of it (struct mcp_member).
 * Rules: every process of the domain may write every word; they are one user's, and one domain's.
 *        A process is a row, from the moment its parent connects to its end; the row's number is
 *        given by the process of the command, which sees the end as a connection that hangs up.
 *
 *   header | rows | owners (a word per slot)
 *
 * Pages are charged to rows: what the domain holds is the sum of their `used_pages`, so that the
 * charge of a process that was killed at any instruction goes with its row. A charge is added
 * first and then compared with the limit, so two that are made at once never exceed it together.
 *
 * A slot is the place of a page that is out: index of a tmem page and page of the swap file alike.
 * Bit r of its owner word says that row r has the page; a fork adds a bit. See slots.h.
 */
#ifndef MCP_FAMILY_H
#define MCP_FAMILY_H

#include "layout.h"
#include "ring.h"

#include <pthread.h>

#define MCP_ROWS 63         /* bit 63 of an owner word is not used */
#define MCP_RUN_PAGES 64    /* pages taken out, put, got or filled by one call, at most */
#define MCP_BUCKETS 64      /* of the histogram of waits: quarter powers of two of 64 ns */
#define MCP_CALL_NS 10000000000ull

/* Counters of the whole domain, in the order of mcp_figure_names (figures.c). */
enum mcp_figure {
    MCP_FAULTS, MCP_ZERO_PAGES_IN, MCP_TMEM_PAGES_IN, MCP_DISK_PAGES_IN, MCP_AHEAD_PAGES_IN,
    MCP_ZERO_PAGES_OUT, MCP_TMEM_PAGES_OUT, MCP_DISK_PAGES_OUT, MCP_REFUSED_PAGES, MCP_WAIT_NS,
    MCP_RECLAIM_NS, MCP_FORKS, MCP_BUSY_RUNS, MCP_FORCED_PAGES, MCP_NATIVE_MAPPINGS,
    MCP_TRACKED_MAPPINGS, MCP_PROCESSES, MCP_SPURIOUS_FAULTS, MCP_FIGURES
};

struct mcp_row {
    _Atomic int64_t used_pages;
    int64_t pad[7];
};

struct mcp_family {
    /* [written once, by the command] */
    uint64_t slots;
    uint64_t bytes;
    uint64_t meta_bytes;
    uint64_t tmem_ring_offset;
    uint64_t staging_offset;            /* in ram: MCP_RUN_PAGES frames */
    uint32_t staging_frame;
    uint32_t pool;
    /* [written by the command at any time] */
    _Atomic int64_t limit_pages;        /* what all rows together may hold */
    _Atomic uint32_t is_gone;           /* the hypervisor, or the domain, is gone */
    uint32_t pad0;
    /* [written by all] */
    _Atomic int64_t peak_pages;
    _Atomic int64_t outside_pages;      /* slots in use */
    _Atomic uint64_t hand;              /* slot at which the next search begins */
    _Atomic uint64_t figures[MCP_FIGURES];
    _Atomic uint64_t waits[MCP_BUCKETS];
    /* [written under `lock`] the domain's end of the tmem ring */
    pthread_mutex_t lock;               /* robust, shared */
    struct mc_front front;              /* `ring` is set by each holder: an address of its own */
    uint64_t next_id;
    struct mcp_row rows[MCP_ROWS];
};

/* One process's view. */
struct mcp_member {
    struct mcp_family *family;
    _Atomic uint64_t *owners;
    struct mc_control *control;
    struct mc_ring *ring;
    uint8_t *staging;                   /* the staging frames of ram */
    int bell_fd;                        /* rings the hypervisor */
    int row;
};

/* Map everything; 0, or minus errno. The fds may be closed afterwards, but bell_fd. */
int mcp_member_join(struct mcp_member *member, int family_fd, int ram_fd, int meta_fd, int bell_fd,
                    int row);

/* Charges, to the member's own row. try: 1, or 0 and nothing is charged. forced: of pages that are
 * there already; those that there is no room for are counted. mcp_charge is for giving back. */
int mcp_charge_try(struct mcp_member *member, int64_t pages);
void mcp_charge_forced(struct mcp_member *member, int64_t pages);
void mcp_charge(struct mcp_member *member, int64_t pages);
int64_t mcp_used_pages(const struct mcp_family *family);
/* Pages that may still be charged; below 0 after the limit has fallen. */
int64_t mcp_room_pages(const struct mcp_family *family);

void mcp_count(struct mcp_member *member, enum mcp_figure figure, uint64_t more);
void mcp_count_wait(struct mcp_member *member, uint64_t ns);

#endif
