/* frames.h: the frame allocator, guest half. It is lock-free and lies in a domain's meta region.
 *
 * Shape: LLFree (Wrenger et al., USENIX ATC 2023) with whole-row reservation.
 *
 *   tree   one u32        free frames of 16 areas, less those that threads have claimed
 *   area   one u32        union mc_area_word: free frames, flags, generation
 *   row    one u64        bit = 1: the frame is taken (handed out, or held in a slot)
 *   head   one u8 each    what a frame is to mc_frames_free: see MC_HEAD_*
 *   slot   a cache line   a row, or what was free of it, that a thread has taken for itself
 *
 * Invariants (mc_frames_validate checks them on a quiescent structure):
 *   I1  area.free == zero bits of its 8 rows; of a huge or reclaimed area free and rows are 0.
 *   I2  tree.free_frames == sum of area.free over its areas.
 *   I3  a frame is taken exactly when its head says handed out or body, or a slot holds its bit.
 *   I4  no bit is in two slots.
 * While threads run, counters never promise more than the bitfield holds: counters fall BEFORE
 * bits are set, bits are cleared BEFORE counters rise.
 *
 * Taking a row (refill), the only path of a 4 KiB allocation that touches a shared line:
 *   1. tree: subtract the frames wanted, or go to the next tree.
 *   2. area: compare-and-swap free down by as many. This one word decides every race with the
 *      hypervisor, which takes an area only by swapping a word that says 512 free.
 *   3. row: compare-and-swap from the bits seen to all ones. The frames gained are the zeros seen.
 *   4. prepare(): ask the hypervisor to install an evicted area; map the area in bulk.
 *   5. slot: store row, then free mask. From here on allocations are private to the thread.
 * A failure at any step undoes the steps before it in reverse order.
 *
 * A frame in a slot has its row bit set. So mc_frames_free puts a frame into the caller's slot,
 * without touching a shared line, when the slot holds the frame's row or holds nothing.
 *
 * Who may call: threads of the domain, each with a slot of its own; a slot is not thread-safe. Two
 * threads that free one block at the same time are a mistake of the program, not always detected.
 * The sources: layout.c (the region at rest), frames.c; search.h and claims.h are private to them.
 */
#ifndef MC_FRAMES_H
#define MC_FRAMES_H

#include "check.h"
#include "layout.h"

/* cdef-begin */
#define MC_AREA_FREE_MASK 0x3ff
#define MC_AREA_HUGE 0x400
#define MC_AREA_EVICTED 0x800
#define MC_AREA_RECLAIMED 0x1000
#define MC_AREA_ISOLATED 0x2000     /* nothing more is handed out: the guest empties it */

#define MC_HEAD_NEVER 0
#define MC_HEAD_BODY 0x40
#define MC_HEAD_FREED 0x80
/* A head of 1 to 9: the first frame of a block of order head - 1. 10 to 25: the first frame of a
 * run of head - 9 whole areas. The other frames of a block are bodies. A head is written after its
 * bodies and removed before them. */
#define MC_HEAD_AREAS 10

#define MC_MAX_ROW_ORDER 8
#define MC_PREPARE_TRIES_MAX 4

/* Make an area usable before a frame of it is handed out. `word` holds the bits of the area word as
 * it was claimed; while the function runs, the hypervisor cannot take the area. It may not use the
 * slot of the allocation. It returns 0 when the area was ready, 1 when the area had to be installed
 * or mapped, or a negative status. After a status the allocator undoes the claim and tries another
 * area, at most MC_PREPARE_TRIES_MAX areas per allocation. */
typedef int (*mc_prepare_fn)(void *context, uint32_t area, uint32_t word);

/* One process's private view of the shared structure. */
struct mc_frames {
    struct mc_tree *trees;
    uint32_t *areas;
    uint64_t *rows;
    uint8_t *heads;
    struct mc_slot *slots;
    uint32_t area_count;
    uint32_t tree_count;
    uint32_t slot_count;
    uint32_t pad;
    mc_prepare_fn prepare;      /* may be NULL */
    void *prepare_context;
    uint8_t *ram;               /* of this process, where frames lie; or NULL, which warms none */
};

struct mc_frames_statistics {
    uint64_t free_frames;       /* by the area words */
    uint64_t slot_frames;       /* held in slots, free to their owners */
    uint64_t taken_frames;      /* by the bitfield, huge areas included, slots excluded */
    uint64_t reclaimed_areas;
    uint64_t evicted_areas;     /* the guest's to take, without backing */
    uint64_t huge_areas;
    uint64_t allocs;
    uint64_t frees;
    uint64_t refills;
    uint64_t prepares;
};

/* Bytes of a meta region for `areas` areas, or a negative status. */
int64_t mc_meta_bytes(uint32_t areas);
/* Hypervisor: lay out a fresh, zeroed region. Every area starts reclaimed. */
int mc_meta_format(void *meta, uint64_t meta_bytes, uint32_t domid, uint32_t areas);
/* Frontend: check magic, version, sizes and every offset against meta_bytes and ram_bytes. */
int mc_meta_check(const void *meta, uint64_t meta_bytes, uint64_t ram_bytes);

/* Either side: fill a view of a region that was formatted here or passed mc_meta_check. 0, or
 * MC_ELAYOUT for no region. */
int mc_frames_bind(struct mc_frames *frames, void *meta);
/* Hypervisor: as mc_frames_bind, and find the two rings. Uses the number of areas only, because the
 * old guest may still write the control page at a reboot. MC_EINDEX for a number no region has. */
int mc_meta_bind(void *meta, uint32_t areas, struct mc_frames *frames,
                 struct mc_ring *rings[MC_RINGS]);

/* A slot (0..MC_SLOTS - 1) for thread `owner`, not 0; MC_ESLOT when all are claimed. */
int mc_slot_claim(struct mc_frames *frames, uint32_t owner);
/* Give the free frames that a slot holds back to all. 0, or MC_ESLOT for a slot nobody claimed. */
int mc_slot_drain(struct mc_frames *frames, int slot);
/* Drain a slot and give it up; as mc_slot_drain. */
int mc_slot_release(struct mc_frames *frames, int slot);

/* A block of 2^order frames (order 0 to 9), aligned to its size: its first frame; MC_ENOMEM,
 * MC_EINDEX for another order, MC_ESLOT. MC_ENOMEM may also mean that another thread has claimed
 * frames and not given them back yet. The caller's own slot was drained before. */
int64_t mc_frames_alloc(struct mc_frames *frames, int slot, int order);
/* 0; or nothing was changed and the status says why: MC_EINDEX for a frame out of range or
 * misaligned or an unknown order, MC_ENEVER, MC_EDOUBLE, MC_ESLOT, or MC_EORDER when the frame
 * belongs to a block of another order. */
int mc_frames_free(struct mc_frames *frames, int slot, uint64_t frame, int order);
/* Up to `count` single frames; returns how many were given (0 when none is left), or MC_ESLOT. */
int64_t mc_frames_alloc_many(struct mc_frames *frames, int slot, uint32_t *out, uint64_t count);
/* Free single frames in their order, up to the first that cannot be freed: returns how many were
 * freed, and in *status 0 or why the next one was not, as mc_frames_free says. */
int64_t mc_frames_free_many(struct mc_frames *frames, int slot, const uint32_t *in, uint64_t count,
                            int *status);
/* `count` (1 to 16) consecutive whole areas of one tree; returns the first frame, or a status as
 * mc_frames_alloc does. mc_frames_free_areas frees them, as mc_frames_free does. */
int64_t mc_frames_alloc_areas(struct mc_frames *frames, int slot, uint32_t count);
int mc_frames_free_areas(struct mc_frames *frames, int slot, uint64_t frame, uint32_t count);

/* Quiescent only: check I1 to I4. 0, or MC_EBROKEN and in *where the area that is wrong. */
int mc_frames_validate(const struct mc_frames *frames, uint32_t *where);
/* Count everything, at any time; exact when no thread is at work. */
void mc_frames_statistics(const struct mc_frames *frames, struct mc_frames_statistics *out);
/* cdef-end */

/* The word of an area, as it is loaded, compared and swapped. C uses the fields; the masks
 * MC_AREA_* name the same bits for Python. */
union mc_area_word {
    uint32_t bits;
    struct {
        uint32_t free : 10;         /* frames that nobody has taken: 0 to 512 */
        uint32_t huge : 1;          /* handed out or claimed as a whole: then free is 0 */
        uint32_t evicted : 1;       /* without backing: INSTALL before a frame of it is used */
        uint32_t reclaimed : 1;     /* the hypervisor's: nothing of it may be handed out */
        uint32_t isolated : 1;      /* nothing more is handed out: the guest empties it */
        uint32_t spare : 2;
        uint32_t generation : 16;   /* rises whenever the hypervisor takes the backing away */
    };
};

_Static_assert(sizeof(union mc_area_word) == 4, "an area word is swapped as 32 bits");
_Static_assert(MC_AREA_FREE_MASK >= MC_AREA_FRAMES, "free can count every frame of an area");
_Static_assert((MC_AREA_FREE_MASK | MC_AREA_HUGE | MC_AREA_EVICTED | MC_AREA_RECLAIMED |
                MC_AREA_ISOLATED) == 0x3fff, "the masks are the fields below spare, in order");

/* A copy of the word. The other side may change it at any time after. */
static inline union mc_area_word mc_word(const struct mc_frames *frames, uint32_t area)
{
    return (union mc_area_word){__atomic_load_n(&frames->areas[area], __ATOMIC_ACQUIRE)};
}

/* 1 when the word still was *seen and is `next` now; else *seen is what it is instead. */
static inline int mc_word_swap(struct mc_frames *frames, uint32_t area, union mc_area_word *seen,
                               union mc_area_word next)
{
    return __atomic_compare_exchange_n(&frames->areas[area], &seen->bits, next.bits, 0,
                                       __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* No frame of the area is taken, whoever may take one. */
static inline int mc_word_is_empty(union mc_area_word word)
{
    return word.free == MC_AREA_FRAMES && !word.huge;
}

/* Empty, and the guest's to take; evicted or not. */
static inline int mc_word_is_whole(union mc_area_word word)
{
    return mc_word_is_empty(word) && !word.reclaimed && !word.isolated;
}

/* Out of use, but still the guest's: a block or a run holds the area, or the guest offers it. */
static inline int mc_word_is_claimed(union mc_area_word word)
{
    return word.free == 0 && word.huge && !word.reclaimed;
}

/* `word` claimed as a whole; the evicted flag and the generation stay. */
static inline union mc_area_word mc_word_claimed(union mc_area_word word)
{
    word.free = 0;
    word.huge = 1;
    word.isolated = 0;
    return word;
}

/* A claimed word made empty again, by one subtraction, so that no change the hypervisor makes to
 * the other fields meanwhile is lost. */
static inline void mc_word_unclaim(struct mc_frames *frames, uint32_t area)
{
    const union mc_area_word claimed = {.huge = 1}, empty = {.free = MC_AREA_FRAMES};
    MC_CHECK(area < frames->area_count, "area %u of %u", area, frames->area_count);
    __atomic_fetch_sub(&frames->areas[area], claimed.bits - empty.bits, __ATOMIC_RELEASE);
}

#endif
