/* paging.h: more virtual pages than frames: page table, resident set, faults, eviction.
 *
 * Owns:  the private state of a guest's paging; nothing here is shared memory. frontend.paging has
 *        the same for Python, and says what a limit is.
 * Rules: one thread at a time, which needs no GIL. The allocator slot in the options is the
 *        paging's alone. Answers of the hypervisor are copied by mc_guest_call, then checked here.
 *        After a ring call has failed, every fault fails: a late answer may still write the frame
 *        of a get.
 *
 * A page is resident, or never touched, in tmem, on disk, or a page of the program's file:
 *   IN_TMEM   frontswap has it, and the disk has no copy; a get takes it out (exclusive gets)
 *   ON_DISK   a slot of the swap file holds the bytes, until the page is written to or tmem has it
 *   FILE      of the program's file, never written; cleancache may have it
 *   none      never touched
 * A fault is one batch on the tmem ring: get and flush the page, put the least recently used page.
 * A victim that tmem refuses is written to disk; the next least recently used pages then go with
 * it, as many as cluster_pages says, in one write to slots that lie together. A page that is read
 * from disk may bring its neighbours there (paging_ahead.c). A run may have several faults under
 * way (paging_flight.c).
 */
#ifndef MC_PAGING_H
#define MC_PAGING_H

#include "guest.h"

/* cdef-begin */
#define MC_PAGING_LOOK_REFERENCES 1024  /* between two looks at the target; a power of two */
#define MC_PAGING_CLUSTER_MAX 32        /* pages written, or read, at once */
#define MC_PAGING_DEPTH_MAX 16          /* faults under way at once */
#define MC_PAGING_SHARE 64              /* a cluster is at most this part of the limit */
#define MC_PAGING_SAMPLE_PAGES 100      /* for the share of idle memory, as ESX samples */
#define MC_PAGING_PERIOD_NS 100000000   /* of such a sample */
#define MC_PAGING_RELEASE_NS 10000000   /* between two tries to give memory back in vain */

enum mc_page_flag {
    MC_PAGE_RESIDENT = 1, MC_PAGE_FILE = 2, MC_PAGE_UNREAD = 4, MC_PAGE_IN_TMEM = 8,
    MC_PAGE_ON_DISK = 16, MC_PAGE_LEAVING = 32, MC_PAGE_SAMPLED = 64,
    MC_PAGE_AHEAD = 128,        /* read ahead, and not used yet */
    MC_PAGE_FRESH = 256,        /* touched first, and not given to `use` yet */
    MC_PAGE_IN_FLIGHT = 512     /* asked of tmem: paging_flight.c */
};

/* An entry of the page table. */
struct mc_page {
    uint64_t used;          /* while resident: when it was used last; no two pages have the same */
    uint64_t own;           /* the caller's: `use` gets its address */
    uint32_t frame;         /* while resident */
    uint32_t at;            /* while resident: its index in the list of resident pages */
    uint32_t slot;          /* while ON_DISK */
    uint32_t flags;         /* enum mc_page_flag */
};

/* Counters count pages, if nothing else is said, and only rise. */
struct mc_paging_counted {
    int64_t references;
    int64_t faults;         /* references to a page that was not resident */
    int64_t first_touches;  /* faults on a page never touched */
    int64_t tmem_hits;      /* faults served by tmem */
    int64_t swap_ins;       /* faults served by the swap file */
    int64_t swap_outs;      /* pages written to the swap file */
    int64_t file_reads;     /* faults served by the program's file */
    int64_t puts;           /* pages offered to tmem */
    int64_t failed_puts;    /* of those, anonymous ones that were refused */
    int64_t moved;          /* pages moved to another frame to empty an area */
    int64_t stall_ns;       /* time in faults that waited for tmem, the disk or a victim */
    int64_t committed_frames;   /* pages ever touched */
    int64_t ahead;          /* pages read from disk before they were asked for */
    int64_t ahead_hits;     /* of those, pages then used */
    int64_t disk_reads;     /* system calls */
    int64_t disk_writes;
};

/* Why a function of paging answered with MC_PAGING_FAILED. */
enum mc_paging_fault {
    MC_PAGING_SWAP_READ = 1,    /* code: errno */
    MC_PAGING_SWAP_WRITE = 2,
    MC_PAGING_PROGRAM_READ = 3,
    MC_PAGING_LOST = 4,         /* code: tmem's answer to a get it may not refuse */
    MC_PAGING_REFUSED = 5,      /* code: tmem's answer to a record it finds wrong */
    MC_PAGING_STATUS = 6,       /* code: enum mc_status of an allocation or a ring call */
    MC_PAGING_CALLER = 7        /* a function of the caller failed, with code */
};

struct mc_paging_failure {
    int32_t why;                /* enum mc_paging_fault */
    uint32_t page;
    int64_t code;
    uint32_t frame;
    uint32_t pad;
};

/* Fill the frame at `address` with a page; 0, or a status of the caller's own. */
typedef int64_t (*mc_page_fill_fn)(void *context, uint32_t page, uint32_t frame);
typedef uint64_t (*mc_page_clock_fn)(void *context);

/* What a program does with a page that it refers to; `how` is of enum mc_use. Not 0 ends the run.
 * `own` is the word that the page table keeps for the caller. */
typedef int64_t (*mc_use_fn)(void *context, uint64_t address, uint64_t *own, uint32_t page,
                             uint32_t how);
enum mc_use { MC_USE_WRITE = 1, MC_USE_CAME = 2, MC_USE_FIRST = 4 };

struct mc_paging_options {
    uint32_t pages;
    int32_t slot;               /* of the frame allocator, claimed for this paging */
    uint64_t resident_frames;
    uint64_t boot_frames;
    int64_t frontswap_pool;     /* -1: none; then pages go to disk only */
    int64_t cleancache_pool;    /* -1: none */
    int32_t swap_fd;            /* a file of at least `pages` pages */
    int32_t program_fd;         /* -1: none; then program_read, if there are pages of a program */
    uint32_t cluster_pages;     /* 1 to MC_PAGING_CLUSTER_MAX */
    uint32_t ahead_pages;       /* the same */
    uint32_t depth;             /* 1 to MC_PAGING_DEPTH_MAX */
    mc_page_fill_fn first_touch;    /* NULL: zeroes */
    mc_page_fill_fn program_read;
    mc_page_clock_fn clock;     /* NULL: the machine's */
    void *context;              /* of the three */
};

struct mc_paging_private;

struct mc_paging {
    struct mc_paging_options options;
    struct mc_paging_counted counted;
    struct mc_paging_failure failure;
    struct mc_guest *guest;
    struct mc_page *table;
    uint64_t limit;             /* pages that may be resident */
    uint32_t resident_count;
    uint32_t spare_count;
    uint64_t stored;            /* anonymous pages in tmem */
    int64_t idle_permille;      /* -1: unknown */
    uint64_t excess;            /* frames above the target to be given back, or 0 */
    uint64_t tick;              /* the time of `used` */
    struct mc_paging_private *own;
};

/* A piece of a stream: `count` references. writes[i] is 1 where pages[i] is written to. */
struct mc_paging_part {
    const int32_t *pages;
    const uint8_t *writes;
    uint64_t count;
    uint64_t done;              /* references that were made; a run goes on from there */
    uint64_t faults_max;        /* of this run */
    mc_use_fn use;
    void *context;
    int64_t answer;             /* of `use`, when it ended the run */
    uint32_t more;              /* the next run goes on with `use`: faults may stay under way */
    uint32_t pad;
};

enum mc_paging_stop {
    MC_PAGING_DONE = 0,
    MC_PAGING_FAULTS = 1,       /* faults_max were served */
    MC_PAGING_RELEASE = 2,      /* excess frames are to be given back: mc_paging_gather, release */
    MC_PAGING_USED = 3,         /* `use` said so; that reference is done, some after it may be */
    MC_PAGING_RANGE = 4,        /* pages[done] is no page */
    MC_PAGING_FAILED = -1000    /* see failure; pages[done] can be tried again */
};

/* NULL without memory. Nothing is touched of the guest before the first reference. */
struct mc_paging *mc_paging_open(struct mc_guest *guest, const struct mc_paging_options *options);
/* Mark a page as one of the program's file, before the first reference. */
void mc_paging_program(struct mc_paging *paging, uint32_t page);
/* Free every frame. */
void mc_paging_close(struct mc_paging *paging);
/* Free the private memory; after mc_paging_close, or when the guest is gone. */
void mc_paging_free(struct mc_paging *paging);

/* One reference without a look at the target: its frame, MC_PAGING_FAILED, or MC_EINDEX. */
int64_t mc_paging_access(struct mc_paging *paging, uint32_t page, int write);
/* References until the part is done or something else is: enum mc_paging_stop. How a stream is cut
 * into parts changes nothing that happens to a page: where the part says so, and after
 * MC_PAGING_FAULTS, faults stay under way, and the next call must be this one again or land. */
int mc_paging_run(struct mc_paging *paging, struct mc_paging_part *part);
/* Let nothing stay under way of a run that is not gone on with: MC_PAGING_DONE, USED or FAILED. */
int mc_paging_land(struct mc_paging *paging, struct mc_paging_part *part);
/* Follow the target as far as no whole area is to be given back, and report what is used. 0, or
 * MC_PAGING_FAILED when a page that must leave cannot be written. `excess` is set anew. */
int mc_paging_look(struct mc_paging *paging);
/* Empty blocks, so that `frames` frames of whole areas are free. Returns how many were moved. */
int64_t mc_paging_gather(struct mc_paging *paging, uint64_t frames);
/* Free all spare frames but one. */
void mc_paging_free_spares(struct mc_paging *paging);
/* Pull up to `pages` pages back from tmem, as the next to be evicted; how many came, or
 * MC_PAGING_FAILED. */
int64_t mc_paging_unuse(struct mc_paging *paging, uint64_t pages);
void mc_paging_report(struct mc_paging *paging);
/* 0, or 1 + the line of the check (paging_check.c) that found a broken invariant at *page. */
int mc_paging_validate(const struct mc_paging *paging, uint32_t *page);
/* cdef-end */

_Static_assert(sizeof(struct mc_page) == 32, "two entries of the page table are a cache line");

#endif
