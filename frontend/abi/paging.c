/* paging.c: see paging.h. Opening and closing, and the loop over a stream's references. */
#include "paging_private.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HIT_FLAGS (MC_PAGE_RESIDENT | MC_PAGE_AHEAD | MC_PAGE_FRESH | UNSETTLED)
#define UNSETTLED (MC_PAGE_LEAVING | MC_PAGE_IN_FLIGHT)
#define PREFETCH 16         /* references between looking a page up and using it */

static void *zeroed(uint64_t count, uint64_t bytes)
{
    return calloc(count ? count : 1, bytes);
}

static int paging_allocate(struct mc_paging *paging)
{
    uint64_t pages = paging->options.pages;
    struct mc_paging_private *own = paging->own = zeroed(1, sizeof *own);
    if (own == NULL)
        return 0;
    own->maxmem_frames = (uint64_t)paging->guest->frames.area_count * MC_AREA_FRAMES;
    paging->table = zeroed(pages, sizeof *paging->table);
    own->resident = zeroed(pages, sizeof *own->resident);
    own->spares = zeroed(own->maxmem_frames, sizeof *own->spares);
    own->ages = zeroed(pages, sizeof *own->ages);
    own->scratch = zeroed(pages, sizeof *own->scratch);
    own->slots = zeroed(pages / 64 + 1, sizeof *own->slots);
    own->slot_pages = zeroed(pages, sizeof *own->slot_pages);
    own->gap = aligned_alloc(MC_FRAME_BYTES, MC_FRAME_BYTES);
    if (!paging->table || !own->resident || !own->spares || !own->ages || !own->scratch ||
        !own->slots || !own->slot_pages || !own->gap)
        return 0;
    memset(own->slot_pages, 0xff, pages * sizeof *own->slot_pages);     /* MC_NO_PAGE */
    own->back_tick = paging->tick = MC_FIRST_TICK;
    own->ahead_slot = MC_NO_PAGE - 1;
    own->disk = mc_disk_open();
    return 1;
}

struct mc_paging *mc_paging_open(struct mc_guest *guest, const struct mc_paging_options *options)
{
    struct mc_paging *paging = zeroed(1, sizeof *paging);
    if (paging == NULL)
        return NULL;
    paging->options = *options;
    paging->guest = guest;
    paging->idle_permille = -1;
    paging->limit = 1;
    MC_CHECK(options->cluster_pages >= 1 && options->cluster_pages <= MC_PAGING_CLUSTER_MAX &&
             options->ahead_pages >= 1 && options->ahead_pages <= MC_PAGING_CLUSTER_MAX &&
             options->depth >= 1 && options->depth <= MC_PAGING_DEPTH_MAX,
             "%u pages a write, %u a read, %u faults", options->cluster_pages,
             options->ahead_pages, options->depth);
    if (paging_allocate(paging))
        return paging;
    mc_paging_free(paging);
    return NULL;
}

void mc_paging_program(struct mc_paging *paging, uint32_t page)
{
    if (page < paging->options.pages)
        paging->table[page].flags = MC_PAGE_FILE | MC_PAGE_UNREAD;
}

void mc_paging_close(struct mc_paging *paging)
{
    struct mc_paging_private *own = paging->own;
    struct mc_frames *frames = &paging->guest->frames;
    mc_disk_close(own->disk);
    own->disk = NULL;
    while (paging->resident_count > 0) {
        uint32_t page = own->resident[paging->resident_count - 1];
        const struct mc_page *entry = &paging->table[page];
        mc_order_remove(paging, page);
        if (!(entry->flags & MC_PAGE_IN_FLIGHT))    /* a late answer may write that frame */
            mc_frames_free(frames, paging->options.slot, entry->frame, 0);
    }
    while (paging->spare_count > 0)
        mc_frames_free(frames, paging->options.slot, own->spares[--paging->spare_count], 0);
    mc_slot_release(frames, paging->options.slot);
}

void mc_paging_free(struct mc_paging *paging)
{
    struct mc_paging_private *own = paging->own;
    if (own != NULL) {
        mc_disk_close(own->disk);
        free(own->resident);
        free(own->spares);
        free(own->ages);
        free(own->scratch);
        free(own->slots);
        free(own->slot_pages);
        free(own->gap);
    }
    free(paging->table);
    free(own);
    free(paging);
}

/* What a hit leaves out: the fault, or the note that reading ahead was right. Its `how`, or
 * MC_PAGING_FAILED. */
static __attribute__((noinline)) int refer_slowly(struct mc_paging *paging, uint32_t page)
{
    struct mc_page *entry = &paging->table[page];
    int status = entry->flags & MC_PAGE_RESIDENT ? MC_OK : mc_fault(paging, page);
    if (status != MC_OK)
        return status;
    if (entry->flags & MC_PAGE_AHEAD) {
        paging->own->ahead_hits++;
        paging->counted.ahead_hits++;
    }
    int how = entry->flags & MC_PAGE_FRESH ? MC_USE_CAME | MC_USE_FIRST : MC_USE_CAME;
    entry->flags &= ~(uint32_t)(MC_PAGE_AHEAD | MC_PAGE_FRESH);
    return how;
}

/* One reference to a page that is one. Its `how` but for the write, or MC_PAGING_FAILED. */
static inline int refer(struct mc_paging *paging, struct mc_page *entry, uint32_t page)
{
    int how = 0;
    paging->counted.references++;
    if (__builtin_expect((entry->flags & HIT_FLAGS) != MC_PAGE_RESIDENT, 0)) {
        how = refer_slowly(paging, page);
        if (how < 0)
            return how;
    }
    entry->used = ++paging->tick;
    return how;
}

int64_t mc_paging_access(struct mc_paging *paging, uint32_t page, int write)
{
    if (page >= paging->options.pages)
        return MC_EINDEX;
    struct mc_page *entry = &paging->table[page];
    int how = refer(paging, entry, page);
    if (how < 0)
        return how;
    if (write)
        mc_note_write(paging, entry);
    return entry->frame;
}

/* Before every MC_PAGING_LOOK_REFERENCES-th reference, once. */
static inline int look_is_due(struct mc_paging *paging)
{
    int64_t next = paging->counted.references + 1;
    if (next & (MC_PAGING_LOOK_REFERENCES - 1) || paging->own->looked == next)
        return 0;
    paging->own->looked = next;
    return 1;
}

/* A reference to a page that is not simply there: 1 when its fault is under way now, 0 when it is
 * to be made by itself, or MC_PAGING_FAILED. */
static __attribute__((noinline)) int refer_in_flight(struct mc_paging *paging,
                                                     struct mc_paging_part *part, uint32_t page,
                                                     int write)
{
    struct mc_flight *flight = &paging->own->flight;
    if (paging->own->depth < 2 && flight->count == 0)
        return 0;
    int status = MC_OK;
    if (paging->table[page].flags & UNSETTLED)
        status = mc_flight_land(paging, part);
    if (status != MC_OK || paging->table[page].flags & MC_PAGE_RESIDENT)
        return status;
    if (flight->count >= paging->own->depth || !mc_flight_may_add(paging, page))
        status = mc_flight_land(paging, part);
    if (status != MC_OK || !mc_flight_may_add(paging, page))
        return status;
    if (mc_flight_add(paging, page, write)) {
        paging->counted.references++;
        return 1;
    }
    return mc_flight_land(paging, part);
}

/* The end of a run: nothing stays under way, unless it goes on. */
static int run_end(struct mc_paging *paging, struct mc_paging_part *part, int stop)
{
    if (!part->answer && (stop == MC_PAGING_FAULTS || (stop == MC_PAGING_DONE && part->more)))
        return stop;
    if (stop != MC_PAGING_FAILED && mc_flight_land(paging, part) != MC_OK)
        return MC_PAGING_FAILED;
    return stop != MC_PAGING_FAILED && part->answer ? MC_PAGING_USED : stop;
}

int mc_paging_land(struct mc_paging *paging, struct mc_paging_part *part)
{
    part->answer = part->more = 0;
    return run_end(paging, part, MC_PAGING_DONE);
}

/* What a look at the target, when one is due, means for a run. */
static int run_look(struct mc_paging *paging, struct mc_paging_part *part)
{
    if (mc_flight_land(paging, part) != MC_OK || mc_paging_look(paging) != MC_OK)
        return MC_PAGING_FAILED;
    return paging->excess ? MC_PAGING_RELEASE : MC_PAGING_DONE;
}

int mc_paging_run(struct mc_paging *paging, struct mc_paging_part *part)
{
    const int64_t faults_end = paging->counted.faults + (int64_t)part->faults_max;
    const uint32_t pages = paging->options.pages;
    struct mc_page *table = paging->table;
    part->answer = 0;
    while (part->done < part->count && part->answer == 0) {
        uint64_t at = part->done;
        uint32_t page = (uint32_t)part->pages[at];
        int how = 0, write = part->writes[at] != 0;
        if (page >= pages)
            return run_end(paging, part, MC_PAGING_RANGE);
        if (at + PREFETCH < part->count && (uint32_t)part->pages[at + PREFETCH] < pages)
            __builtin_prefetch(&table[part->pages[at + PREFETCH]], 1);
        if (__builtin_expect(look_is_due(paging), 0) &&
            (how = run_look(paging, part)) != MC_PAGING_DONE)
            return run_end(paging, part, how);
        struct mc_page *entry = &table[page];
        if (__builtin_expect((entry->flags & HIT_FLAGS) != MC_PAGE_RESIDENT, 0)) {
            if (paging->counted.faults >= faults_end)
                return run_end(paging, part, MC_PAGING_FAULTS);
            how = refer_in_flight(paging, part, page, write);
            part->done += how == 1;
            if (how < 0)
                return run_end(paging, part, how);
            if (how == 1 || part->answer)
                continue;
        }
        how = refer(paging, entry, page);
        if (how < 0)
            return run_end(paging, part, how);
        if (write)
            mc_note_write(paging, entry);
        part->done = at + 1;
        if (part->use)
            part->answer = part->use(part->context, mc_frame_address(paging, entry->frame),
                                     &entry->own, page, (uint32_t)(how | write * MC_USE_WRITE));
    }
    return run_end(paging, part, MC_PAGING_DONE);
}
