/* frames.c: slots, allocation and freeing. See frames.h for the shape, claims.h for the claims.
 *
 * The two public functions begin with the order-0 fast path: the thread's own slot line and the
 * frame's head, plain loads and stores. Everything else is out of line. A frame in a slot's `free`
 * has its row bit set, so giving a frame to a slot is one store, whichever row it came from: a slot
 * whose `free` is empty may adopt any row.
 */
#include "search.h"

#include <string.h>

#define MC_NOINLINE __attribute__((noinline))
#define MC_HEAD_SINGLE 1
#define MC_ROW_ORDER 6
#define MC_HEADS_SINGLE 0x0101010101010101ull

static inline void set_head(struct mc_frames *frames, uint64_t frame, uint8_t head)
{
    __atomic_store_n(&frames->heads[frame], head, __ATOMIC_RELAXED);
}

static void mark_block(struct mc_frames *frames, uint64_t frame, uint64_t count, int head)
{
    memset(frames->heads + frame + 1, MC_HEAD_BODY, count - 1);
    atomic_signal_fence(memory_order_seq_cst);      /* a killed thread leaves no head alone */
    set_head(frames, frame, (uint8_t)head);
}

static void unmark_block(struct mc_frames *frames, uint64_t frame, uint64_t count)
{
    set_head(frames, frame, MC_HEAD_FREED);
    atomic_signal_fence(memory_order_seq_cst);
    memset(frames->heads + frame + 1, MC_HEAD_FREED, count - 1);
}

/* ---- slots ---- */

static struct mc_slot *slot_at(struct mc_frames *frames, int slot)
{
    if (slot < 0 || slot >= MC_SLOTS)
        return NULL;
    struct mc_slot *own = &frames->slots[slot];
    return atomic_load_explicit(&own->owner, memory_order_relaxed) ? own : NULL;
}

static void drain(struct mc_frames *frames, struct mc_slot *own)
{
    uint64_t bits = slot_free(own);
    if (bits == 0)
        return;
    slot_set_free(own, 0);
    mc_row_give(frames, slot_row(own), bits);
}

int mc_slot_claim(struct mc_frames *frames, uint32_t owner)
{
    if (owner == 0)
        return MC_EINDEX;
    for (uint32_t slot = 0; slot < MC_SLOTS; slot++) {
        struct mc_slot *own = &frames->slots[slot];
        uint32_t nobody = 0;
        if (!atomic_compare_exchange_strong(&own->owner, &nobody, owner))
            continue;
        /* Spread over the trees, so that slots do not meet in one area. */
        own->cursor = frames->tree_count * slot / MC_SLOTS * MC_TREE_AREAS;
        return (int)slot;
    }
    return MC_ESLOT;
}

int mc_slot_drain(struct mc_frames *frames, int slot)
{
    struct mc_slot *own = slot_at(frames, slot);
    if (own == NULL)
        return MC_ESLOT;
    drain(frames, own);
    return MC_OK;
}

int mc_slot_release(struct mc_frames *frames, int slot)
{
    struct mc_slot *own = slot_at(frames, slot);
    if (own == NULL)
        return MC_ESLOT;
    drain(frames, own);
    slot_hold(own, MC_NO_ROW, 0);
    atomic_store_explicit(&own->owner, 0, memory_order_release);
    return MC_OK;
}

/* ---- allocation ---- */

static int refill(struct mc_frames *frames, struct mc_slot *own)
{
    return (int)search(frames, own, try_refill, 0, 1);
}

static int64_t alloc_run(struct mc_frames *frames, struct mc_slot *own, int order)
{
    if (slot_free(own) == 0 && refill(frames, own) < 0)
        return MC_ENOMEM;
    uint64_t free = slot_free(own), starts = mc_run_starts(free, order);
    if (starts == 0)
        return search(frames, own, try_run, order, 1u << order);
    int bit = __builtin_ctzll(starts);
    uint64_t frame = (uint64_t)slot_row(own) * MC_ROW_FRAMES + (uint32_t)bit;
    slot_set_free(own, free & ~(mc_run_mask(order) << bit));
    return (int64_t)frame;
}

static int64_t alloc_once(struct mc_frames *frames, struct mc_slot *own, int order)
{
    if (order <= MC_ROW_ORDER)
        return alloc_run(frames, own, order);
    if (order <= MC_MAX_ROW_ORDER)
        return search(frames, own, try_rows, order, 1u << order);
    return search(frames, own, try_areas, 1, MC_AREA_FRAMES);
}

static MC_NOINLINE int64_t alloc_slow(struct mc_frames *frames, int slot, int order)
{
    struct mc_slot *own = slot_at(frames, slot);
    if (own == NULL)
        return MC_ESLOT;
    if (order < 0 || order > MC_AREA_ORDER)
        return MC_EINDEX;
    int64_t frame = alloc_once(frames, own, order);
    if (frame < 0 && slot_free(own) != 0) {
        /* What the slot keeps may be just what a larger block lacks. */
        drain(frames, own);
        frame = alloc_once(frames, own, order);
    }
    if (frame < 0)
        return MC_ENOMEM;
    mark_block(frames, (uint64_t)frame, 1u << order,
               order < MC_AREA_ORDER ? order + 1 : MC_HEAD_AREAS);
    own->allocs += 1u << order;
    return frame;
}

int64_t mc_frames_alloc(struct mc_frames *frames, int slot, int order)
{
    if (__builtin_expect(order == 0 && (uint32_t)slot < MC_SLOTS, 1)) {
        struct mc_slot *own = &frames->slots[slot];
        uint64_t free = slot_free(own);
        if (__builtin_expect(free != 0, 1)) {
            uint64_t frame = (uint64_t)slot_row(own) * MC_ROW_FRAMES
                             + (uint32_t)__builtin_ctzll(free);
            set_head(frames, frame, MC_HEAD_SINGLE);
            slot_set_free(own, free & (free - 1));
            own->allocs++;
            return (int64_t)frame;
        }
    }
    return alloc_slow(frames, slot, order);
}

int64_t mc_frames_alloc_areas(struct mc_frames *frames, int slot, uint32_t count)
{
    struct mc_slot *own = slot_at(frames, slot);
    if (own == NULL)
        return MC_ESLOT;
    if (count == 0 || count > MC_TREE_AREAS)
        return MC_EINDEX;
    uint32_t total = count * MC_AREA_FRAMES;
    int64_t frame = search(frames, own, try_areas, (int)count, total);
    if (frame < 0 && slot_free(own) != 0) {
        drain(frames, own);
        frame = search(frames, own, try_areas, (int)count, total);
    }
    if (frame < 0)
        return MC_ENOMEM;
    mark_block(frames, (uint64_t)frame, total, MC_HEAD_AREAS + (int)count - 1);
    own->allocs += total;
    return frame;
}

int64_t mc_frames_alloc_many(struct mc_frames *frames, int slot, uint32_t *out, uint64_t count)
{
    struct mc_slot *own = slot_at(frames, slot);
    uint64_t given = 0;
    if (own == NULL)
        return MC_ESLOT;
    while (given < count) {
        uint64_t free = slot_free(own);
        if (free == 0 && refill(frames, own) < 0)
            break;
        free = slot_free(own);
        uint32_t first = slot_row(own) * MC_ROW_FRAMES;
        if (free == MC_ROW_FULL && count - given >= MC_ROW_FRAMES) {
            memset(frames->heads + first, MC_HEAD_SINGLE, MC_ROW_FRAMES);
            for (uint32_t k = 0; k < MC_ROW_FRAMES; k++)
                out[given + k] = first + k;
            given += MC_ROW_FRAMES;
            free = 0;
        }
        for (; free != 0 && given < count; free &= free - 1) {
            out[given] = first + (uint32_t)__builtin_ctzll(free);
            set_head(frames, out[given++], MC_HEAD_SINGLE);
        }
        slot_set_free(own, free);
    }
    own->allocs += given;
    return (int64_t)given;
}

/* ---- freeing ---- */

static int check_block(const struct mc_frames *frames, uint64_t frame, uint64_t count, int wanted)
{
    uint64_t alignment = count < MC_AREA_FRAMES ? count : MC_AREA_FRAMES;
    if (frame >= mc_frame_limit(frames) || frame % alignment != 0)
        return MC_EINDEX;
    uint8_t head = mc_head(frames, frame);
    if (head == wanted)
        return MC_OK;
    if (head == MC_HEAD_NEVER)
        return MC_ENEVER;
    return head == MC_HEAD_FREED ? MC_EDOUBLE : MC_EORDER;
}

/* Frames of one row, heads gone: into the slot when it holds this row or none, else shared. */
static int give_bits(struct mc_frames *frames, struct mc_slot *own, uint32_t row, uint64_t bits)
{
    uint64_t free = slot_free(own);
    if (free != 0 && row != slot_row(own))
        return mc_row_give(frames, row, bits);
    slot_hold(own, row, free | bits);
    return MC_OK;
}

static int free_areas(struct mc_frames *frames, struct mc_slot *own, uint64_t frame, uint32_t count)
{
    uint32_t total = count * MC_AREA_FRAMES, area = (uint32_t)(frame / MC_AREA_FRAMES);
    int status = check_block(frames, frame, total, MC_HEAD_AREAS + (int)count - 1);
    if (status < 0)
        return status;
    unmark_block(frames, frame, total);
    for (uint32_t k = 0; k < count; k++)
        mc_area_unhuge(frames, area + k);
    mc_tree_give(frames, area, total);
    own->frees += total;
    return MC_OK;
}

static MC_NOINLINE int free_slow(struct mc_frames *frames, int slot, uint64_t frame, int order)
{
    struct mc_slot *own = slot_at(frames, slot);
    if (own == NULL)
        return MC_ESLOT;
    if (order < 0 || order > MC_AREA_ORDER)
        return MC_EINDEX;
    if (order == MC_AREA_ORDER)
        return free_areas(frames, own, frame, 1);
    uint32_t count = 1u << order, row = (uint32_t)(frame / MC_ROW_FRAMES);
    int status = check_block(frames, frame, count, order + 1);
    if (status < 0)
        return status;
    unmark_block(frames, frame, count);
    if (order <= MC_ROW_ORDER) {
        status = give_bits(frames, own, row, mc_run_mask(order) << frame % MC_ROW_FRAMES);
    } else {
        clear_rows(frames, row, count / MC_ROW_FRAMES);
        mc_unclaim(frames, row / MC_AREA_ROWS, count);
    }
    if (status == MC_OK)
        own->frees += count;
    return status;
}

int mc_frames_free(struct mc_frames *frames, int slot, uint64_t frame, int order)
{
    if (__builtin_expect(order == 0 && (uint32_t)slot < MC_SLOTS
                         && frame < mc_frame_limit(frames), 1)) {
        struct mc_slot *own = &frames->slots[slot];
        if (__builtin_expect(frame / MC_ROW_FRAMES == slot_row(own)
                             && mc_head(frames, frame) == MC_HEAD_SINGLE, 1)) {
            set_head(frames, frame, MC_HEAD_FREED);
            slot_set_free(own, slot_free(own) | 1ull << frame % MC_ROW_FRAMES);
            own->frees++;
            return MC_OK;
        }
    }
    return free_slow(frames, slot, frame, order);
}

int mc_frames_free_areas(struct mc_frames *frames, int slot, uint64_t frame, uint32_t count)
{
    struct mc_slot *own = slot_at(frames, slot);
    if (own == NULL)
        return MC_ESLOT;
    if (count == 0 || count > MC_TREE_AREAS)
        return MC_EINDEX;
    return free_areas(frames, own, frame, count);
}

/* 1 when the next 64 frames are one whole row, in order, all single; its heads are then gone. */
static int take_whole_row(struct mc_frames *frames, const uint32_t *in)
{
    uint32_t first = in[0], wrong = first % MC_ROW_FRAMES;
    uint64_t heads[MC_ROW_FRAMES / 8], other = 0;
    if (first >= mc_frame_limit(frames))
        return 0;
    for (uint32_t k = 0; k < MC_ROW_FRAMES; k++)
        wrong |= in[k] ^ (first + k);
    if (wrong)
        return 0;
    memcpy(heads, frames->heads + first, sizeof heads);
    for (uint32_t k = 0; k < MC_ROW_FRAMES / 8; k++)
        other |= heads[k] ^ MC_HEADS_SINGLE;
    if (other)
        return 0;
    memset(frames->heads + first, MC_HEAD_FREED, MC_ROW_FRAMES);
    return 1;
}

int64_t mc_frames_free_many(struct mc_frames *frames, int slot, const uint32_t *in, uint64_t count,
                            int *status)
{
    struct mc_slot *own = slot_at(frames, slot);
    uint64_t done = 0;
    *status = own == NULL ? MC_ESLOT : MC_OK;
    while (done < count && *status == MC_OK) {
        uint64_t bits = 0, next = done;
        uint32_t row = in[done] / MC_ROW_FRAMES;
        if (count - done >= MC_ROW_FRAMES && take_whole_row(frames, in + done)) {
            bits = MC_ROW_FULL;
            next += MC_ROW_FRAMES;
        }
        for (; bits != MC_ROW_FULL && next < count && in[next] / MC_ROW_FRAMES == row; next++) {
            *status = check_block(frames, in[next], 1, MC_HEAD_SINGLE);
            if (*status < 0)
                break;
            set_head(frames, in[next], MC_HEAD_FREED);
            bits |= 1ull << in[next] % MC_ROW_FRAMES;
        }
        if (bits != 0 && give_bits(frames, own, row, bits) < 0)
            *status = MC_EDOUBLE;
        own->frees += next - done;
        done = next;
    }
    return (int64_t)done;
}
