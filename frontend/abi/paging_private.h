/* paging_private.h: what the files paging*.c share, and nobody else may use. */
#ifndef MC_PAGING_PRIVATE_H
#define MC_PAGING_PRIVATE_H

#include "paging.h"
#include "paging_disk.h"

#define MC_NO_PAGE UINT32_MAX
#define MC_NOT_ASKED UINT32_MAX
#define MC_FIRST_TICK (1ull << 62)      /* pages that were pulled back are older than all others */

struct mc_age {
    uint64_t used;
    uint64_t page;
};

struct mc_sampled {
    uint64_t used;
    uint32_t page;                      /* MC_NO_PAGE: it has left memory */
};

/* Pages on their way out of memory, and the records of one batch. */
struct mc_leaving {
    uint32_t count;
    uint32_t pages[MC_RING_SLOTS];
    int64_t answers[MC_RING_SLOTS];     /* places of tmem's in the batch, or unasked */
};

struct mc_batch {
    uint32_t count;
    struct mc_record records[MC_RING_SLOTS];
};

struct mc_in_flight {
    uint32_t page;
    uint32_t place;                     /* of tmem's answer in the batch, or MC_NOT_ASKED */
    int write;
    int came;
};

/* Faults under way at once. */
struct mc_flight {
    uint32_t count;
    struct mc_in_flight faults[MC_PAGING_DEPTH_MAX];
    struct mc_leaving leaving;
    struct mc_batch batch;
};

struct mc_paging_private {
    uint32_t *resident;                 /* resident_count pages in any order */
    uint32_t *spares;                   /* spare_count frames */
    uint64_t maxmem_frames;
    uint64_t back_tick;                 /* falls with every page pulled back */
    int64_t looked;                     /* the reference before which the target was looked at */
    int broken;                         /* the status of the ring call that failed, or 0 */
    /* paging_order.c: the resident pages by age, as they were when that was made */
    struct mc_age *ages;
    struct mc_age *scratch;
    uint32_t age_count;
    uint32_t age_next;
    /* paging_swap.c */
    uint64_t *slots;                    /* a bit per slot of the swap file: in use */
    uint32_t *slot_pages;
    uint32_t slot_next;
    /* paging_ahead.c */
    struct mc_disk *disk;               /* NULL: without io_uring */
    uint8_t *gap;                       /* where bytes go that nobody wants */
    uint32_t ahead_hits;                /* since the last read */
    uint32_t ahead_last;
    uint32_t ahead_slot;
    /* paging_sample.c */
    struct mc_sampled sample[MC_PAGING_SAMPLE_PAGES];
    uint32_t sample_count;              /* entries */
    uint32_t sample_size;               /* pages that the sample says something about */
    uint64_t sample_end_ns;
    uint64_t random;
    /* paging_flight.c */
    uint32_t depth;                     /* faults that may be under way */
    struct mc_flight flight;
    /* paging_look.c */
    uint64_t release_ns;                /* not before */
    uint64_t release_target;
};

static inline uint64_t mc_frame_address(const struct mc_paging *paging, uint32_t frame)
{
    return (uint64_t)(uintptr_t)paging->guest->ram + ((uint64_t)frame << MC_FRAME_SHIFT);
}

static inline uint64_t mc_paging_now(const struct mc_paging *paging)
{
    return paging->options.clock ? paging->options.clock(paging->options.context)
                                 : mc_clock_ns();
}

/* MC_PAGING_FAILED, and why. */
static inline int mc_paging_fail(struct mc_paging *paging, enum mc_paging_fault why, uint32_t page,
                                 int64_t code, uint32_t frame)
{
    paging->failure = (struct mc_paging_failure){
        .why = why, .page = page, .code = code, .frame = frame};
    return MC_PAGING_FAILED;
}

/* At most a small part of the limit, so that a small guest keeps what it uses. */
static inline uint32_t mc_paging_share(uint64_t limit, uint32_t pages)
{
    uint64_t share = limit / MC_PAGING_SHARE;
    return share >= pages ? pages : share > 1 ? (uint32_t)share : 1;
}

/* paging_order.c */
void mc_order_add(struct mc_paging *paging, uint32_t page, uint32_t frame, uint64_t used);
void mc_order_remove(struct mc_paging *paging, uint32_t page);
/* The least recently used page that is not LEAVING, which it is then; MC_NO_PAGE. */
uint32_t mc_order_take(struct mc_paging *paging);
/* A page that was taken stays, or one came that is older than the others. */
void mc_order_forget(struct mc_paging *paging);

/* paging_swap.c. Write pages, all LEAVING, to slots of their own; those that are ON_DISK
 * afterwards are there. 0, or MC_PAGING_FAILED when not all are. */
int mc_swap_write(struct mc_paging *paging, const uint32_t *pages, uint32_t count);
/* Read slots `first` on into `count` buffers; 0, or an errno. */
int mc_swap_read(struct mc_paging *paging, uint32_t first, void *const *buffers, uint32_t count);
void mc_swap_forget(struct mc_paging *paging, struct mc_page *page);
/* The copies of a page on disk and in the program's file are old now. */
static inline void mc_note_write(struct mc_paging *paging, struct mc_page *page)
{
    if (page->flags & (MC_PAGE_ON_DISK | MC_PAGE_FILE)) {
        mc_swap_forget(paging, page);
        page->flags &= ~(uint32_t)MC_PAGE_FILE;
    }
}
int mc_file_read(int fd, uint64_t offset, uint64_t address);

/* paging_tmem.c */
void mc_tmem_add_get(struct mc_paging *paging, struct mc_batch *batch, uint32_t page,
                     uint32_t frame);
void mc_tmem_add_put(struct mc_paging *paging, struct mc_batch *batch, uint32_t page,
                     uint32_t frame);
/* Send what was added; 0, or MC_PAGING_FAILED for good. */
int mc_tmem_submit(struct mc_paging *paging, struct mc_batch *batch);

/* paging_evict.c */
int mc_evict(struct mc_paging *paging, uint32_t count);
/* Take the oldest page and add its offer to tmem. */
void mc_leave_begin(struct mc_paging *paging, struct mc_leaving *leaving, struct mc_batch *batch);
/* After the batch: have a copy outside RAM of every page, then let it go. */
int mc_leave_end(struct mc_paging *paging, struct mc_leaving *leaving,
                 const struct mc_batch *batch);
/* A frame for a page to come: its number, or MC_PAGING_FAILED. */
int64_t mc_free_frame(struct mc_paging *paging, uint32_t page);

/* A frame that costs no eviction and no question, or -1. */
int64_t mc_frame_at_hand(struct mc_paging *paging);

/* paging_fault.c: make a page resident. 0, or MC_PAGING_FAILED. */
int mc_fault(struct mc_paging *paging, uint32_t page);
/* Whether tmem may have the page. */
int mc_load_may_ask(const struct mc_paging *paging, uint32_t page);
/* Ask tmem for the page, where it may have it; the place of its answer, or MC_NOT_ASKED. */
uint32_t mc_load_begin(struct mc_paging *paging, struct mc_batch *batch, uint32_t page,
                       uint32_t frame);
/* After the batch: fill the frame from the page's place, if tmem has not done so. 0, or
 * MC_PAGING_FAILED. */
int mc_load_end(struct mc_paging *paging, uint32_t page, uint32_t frame, uint32_t place,
                const struct mc_batch *batch);
/* After a page was read from its file or the swap file into `frame`: count it. 0, or
 * MC_PAGING_FAILED when `failed`, an errno. */
int mc_load_read(struct mc_paging *paging, uint32_t page, uint32_t frame, int failed);
/* paging_flight.c. Whether a fault on the page may wait with others. */
int mc_flight_may_add(struct mc_paging *paging, uint32_t page);
/* 1; 0 when the fault must be served by itself. */
int mc_flight_add(struct mc_paging *paging, uint32_t page, int write);
/* Send what is under way and do what waits for it. 0, or MC_PAGING_FAILED. */
int mc_flight_land(struct mc_paging *paging, struct mc_paging_part *part);
/* paging_ahead.c: read a page that is ON_DISK into `frame`, and its neighbours into frames that are
 * found for them. 0, or MC_PAGING_FAILED. */
int mc_ahead_read(struct mc_paging *paging, uint32_t page, uint32_t frame);
/* The pages that a read of this one should bring, itself included. */
uint32_t mc_ahead_window(struct mc_paging *paging, uint32_t slot);
/* A read of `window` pages for the one in `slot` is made. */
void mc_ahead_note(struct mc_paging *paging, uint32_t slot, uint32_t window);

/* paging_sample.c */
void mc_sample_forget(struct mc_paging *paging, uint32_t page);
void mc_sample_look(struct mc_paging *paging, uint64_t now_ns);

#endif
