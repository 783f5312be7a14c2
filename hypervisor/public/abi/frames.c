/* frames.c: slots, allocation and freeing. See frames.h for the shape, search.h for finding memory.
 *
 * mc_frames_alloc and mc_frames_free begin with the path of a single frame: the thread's own slot
 * and the frame's head, plain loads and stores. Everything else is out of line. A frame in a slot's
 * `free` has its row bit set, so giving a frame to a slot is one store, whichever row it came from:
 * a slot whose `free` is empty may take any row.
 * Checks stand where a row or more is at stake: claiming and draining a slot, blocks of more than a
 * row. They look at heads, rows and slots, which only the guest's process writes.
 */
#include "search.h"

#include <string.h>

/* Checks stand in functions of their own: their reports would cost the callers registers. */
#define MC_NOINLINE __attribute__((noinline))
#define MC_INLINE inline __attribute__((always_inline))
#define MC_HEADS_SINGLE 0x0101010101010101ull

/* A block that is about to be handed out: nobody has it. */
static MC_NOINLINE void block_check_free(const struct mc_frames *frames, uint64_t frame,
                                         uint64_t count)
{
    uint8_t first, last;
    MC_CHECK(frame + count <= mc_frame_limit(frames), "block of %lu frames from %lu in %u areas",
             count, frame, frames->area_count);
    first = mc_head(frames, frame), last = mc_head(frames, frame + count - 1);
    MC_CHECK(!mc_head_taken(first), "frame %lu is handed out already: head %d", frame, first);
    MC_CHECK(!mc_head_taken(last), "block of %lu frames from %lu: the last has head %d", count,
             frame, last);
}

/* A block that is about to be freed: it is whole. */
static MC_NOINLINE void block_check_taken(const struct mc_frames *frames, uint64_t frame,
                                          uint64_t count)
{
    uint8_t last = mc_head(frames, frame + count - 1);
    MC_CHECK(last == MC_HEAD_BODY, "block of %lu frames from %lu: the last has head %d", count,
             frame, last);
}

/* Hand a block out: the bodies first, so that a block is taken as soon as its head says so. */
static MC_INLINE void block_mark(struct mc_frames *frames, uint64_t frame, uint64_t count, int head)
{
    if (count > MC_ROW_FRAMES)
        block_check_free(frames, frame, count);
    memset(frames->heads + frame + 1, MC_HEAD_BODY, count - 1);
    atomic_signal_fence(memory_order_seq_cst);
    mc_head_set(frames, frame, (uint8_t)head);
}

static void block_unmark(struct mc_frames *frames, uint64_t frame, uint64_t count)
{
    if (count > MC_ROW_FRAMES)
        block_check_taken(frames, frame, count);
    mc_head_set(frames, frame, MC_HEAD_FREED);
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

static MC_NOINLINE void slot_drain(struct mc_frames *frames, struct mc_slot *own)
{
    uint64_t bits = mc_slot_free(own);
    uint32_t row = mc_slot_row(own);
    if (bits == 0)
        return;
    MC_CHECK(row < frames->area_count * MC_AREA_ROWS, "a slot holds row %u of %u areas", row,
             frames->area_count);
    mc_slot_set_free(own, 0);
    int status = mc_row_give(frames, row, bits);
    MC_CHECK(status == MC_OK, "row %u: a slot held %#lx, of which some were free", row, bits);
}

int mc_slot_claim(struct mc_frames *frames, uint32_t owner)
{
    if (owner == 0)
        return MC_EINDEX;
    MC_CHECK(frames->slot_count == MC_SLOTS, "a view with %u slots", frames->slot_count);
    for (uint32_t slot = 0; slot < MC_SLOTS; slot++) {
        struct mc_slot *own = &frames->slots[slot];
        uint32_t nobody = 0;
        if (!atomic_compare_exchange_strong(&own->owner, &nobody, owner))
            continue;
        MC_CHECK(mc_slot_free(own) == 0, "slot %u without an owner holds %#lx of row %u", slot,
                 mc_slot_free(own), mc_slot_row(own));
        MC_CHECK(mc_slot_row(own) == MC_NO_ROW, "slot %u without an owner holds row %u", slot,
                 mc_slot_row(own));
        /* Spread over the trees, so that slots do not meet in one area. */
        own->cursor = frames->tree_count * slot / MC_SLOTS * MC_TREE_AREAS;
        MC_CHECK(own->cursor < frames->area_count, "slot %u begins at area %u of %u", slot,
                 own->cursor, frames->area_count);
        return (int)slot;
    }
    return MC_ESLOT;
}

int mc_slot_drain(struct mc_frames *frames, int slot)
{
    struct mc_slot *own = slot_at(frames, slot);
    if (own == NULL)
        return MC_ESLOT;
    slot_drain(frames, own);
    return MC_OK;
}

int mc_slot_release(struct mc_frames *frames, int slot)
{
    struct mc_slot *own = slot_at(frames, slot);
    if (own == NULL)
        return MC_ESLOT;
    slot_drain(frames, own);
    mc_slot_hold(own, MC_NO_ROW, 0);
    atomic_store_explicit(&own->owner, 0, memory_order_release);
    return MC_OK;
}

/* ---- allocation ---- */

static int64_t alloc_run(struct mc_frames *frames, struct mc_slot *own, int order)
{
    if (mc_slot_free(own) == 0 && mc_search_refill(frames, own) < 0)
        return MC_ENOMEM;
    uint64_t free = mc_slot_free(own), starts = mc_run_starts(free, order);
    if (starts == 0)
        return mc_search_block(frames, own, order);
    int bit = __builtin_ctzll(starts);
    uint64_t frame = (uint64_t)mc_slot_row(own) * MC_ROW_FRAMES + (uint32_t)bit;
    mc_slot_set_free(own, free & ~(mc_run_mask(order) << bit));
    return (int64_t)frame;
}

static int64_t alloc_block(struct mc_frames *frames, struct mc_slot *own, int order)
{
    if (order <= MC_ROW_ORDER)
        return alloc_run(frames, own, order);
    if (order <= MC_MAX_ROW_ORDER)
        return mc_search_block(frames, own, order);
    return mc_search_areas(frames, own, 1);
}

static MC_NOINLINE int64_t alloc_slow(struct mc_frames *frames, int slot, int order)
{
    struct mc_slot *own = slot_at(frames, slot);
    if (own == NULL)
        return MC_ESLOT;
    if (order < 0 || order > MC_AREA_ORDER)
        return MC_EINDEX;
    int64_t frame = alloc_block(frames, own, order);
    if (frame < 0 && mc_slot_free(own) != 0) {
        /* The frames that the slot holds may be those that a larger block lacks. */
        slot_drain(frames, own);
        frame = alloc_block(frames, own, order);
    }
    if (frame < 0)
        return MC_ENOMEM;
    block_mark(frames, (uint64_t)frame, 1u << order,
               order < MC_AREA_ORDER ? order + 1 : MC_HEAD_AREAS);
    own->allocs += 1u << order;
    return frame;
}

int64_t mc_frames_alloc(struct mc_frames *frames, int slot, int order)
{
    int64_t frame = mc_slot_pop(frames, slot, order);
    return __builtin_expect(frame >= 0, 1) ? frame : alloc_slow(frames, slot, order);
}

int64_t mc_frames_alloc_areas(struct mc_frames *frames, int slot, uint32_t count)
{
    struct mc_slot *own = slot_at(frames, slot);
    if (own == NULL)
        return MC_ESLOT;
    if (count == 0 || count > MC_TREE_AREAS)
        return MC_EINDEX;
    uint32_t total = count * MC_AREA_FRAMES;
    int64_t frame = mc_search_areas(frames, own, count);
    if (frame < 0 && mc_slot_free(own) != 0) {
        slot_drain(frames, own);
        frame = mc_search_areas(frames, own, count);
    }
    if (frame < 0)
        return MC_ENOMEM;
    block_mark(frames, (uint64_t)frame, total, MC_HEAD_AREAS + (int)count - 1);
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
        uint64_t free = mc_slot_free(own);
        if (free == 0 && mc_search_refill(frames, own) < 0)
            break;
        free = mc_slot_free(own);
        uint32_t first = mc_slot_row(own) * MC_ROW_FRAMES;
        if (free == MC_ROW_FULL && count - given >= MC_ROW_FRAMES) {
            memset(frames->heads + first, MC_HEAD_SINGLE, MC_ROW_FRAMES);
            for (uint32_t k = 0; k < MC_ROW_FRAMES; k++)
                out[given + k] = first + k;
            given += MC_ROW_FRAMES;
            free = 0;
        }
        for (; free != 0 && given < count; free &= free - 1) {
            out[given] = first + (uint32_t)__builtin_ctzll(free);
            mc_head_set(frames, out[given++], MC_HEAD_SINGLE);
        }
        mc_slot_set_free(own, free);
    }
    own->allocs += given;
    return (int64_t)given;
}

/* ---- freeing ---- */

static int block_check(const struct mc_frames *frames, uint64_t frame, uint64_t count, int wanted)
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

/* Give frames of one row, whose heads say freed, to the slot when it holds this row or nothing,
 * else to all. */
static MC_INLINE int slot_give_bits(struct mc_frames *frames, struct mc_slot *own, uint32_t row,
                                    uint64_t bits)
{
    uint64_t free = mc_slot_free(own);
    if (free != 0 && row != mc_slot_row(own))
        return mc_row_give(frames, row, bits);
    mc_slot_hold(own, row, free | bits);
    return MC_OK;
}

static MC_NOINLINE int areas_free(struct mc_frames *frames, struct mc_slot *own, uint64_t frame,
                                  uint32_t count)
{
    uint32_t total = count * MC_AREA_FRAMES, area = (uint32_t)(frame / MC_AREA_FRAMES);
    MC_CHECK(count >= 1 && count <= MC_TREE_AREAS, "a run of %u areas", count);
    int status = block_check(frames, frame, total, MC_HEAD_AREAS + (int)count - 1);
    if (status < 0)
        return status;
    block_unmark(frames, frame, total);
    for (uint32_t k = 0; k < count; k++)
        mc_word_unclaim(frames, area + k);
    mc_tree_give(frames, area, total);
    own->frees += total;
    return MC_OK;
}

/* Orders 7 and 8: whole rows, which no slot takes. */
static MC_NOINLINE int rows_free(struct mc_frames *frames, struct mc_slot *own, uint64_t frame,
                                 int order)
{
    uint32_t count = 1u << order, row = (uint32_t)(frame / MC_ROW_FRAMES);
    int status = block_check(frames, frame, count, order + 1);
    if (status < 0)
        return status;
    block_unmark(frames, frame, count);
    mc_rows_clear(frames, row, count / MC_ROW_FRAMES);
    mc_area_give(frames, row / MC_AREA_ROWS, count);
    own->frees += count;
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
        return areas_free(frames, own, frame, 1);
    if (order > MC_ROW_ORDER)
        return rows_free(frames, own, frame, order);
    uint32_t count = 1u << order, row = (uint32_t)(frame / MC_ROW_FRAMES);
    int status = block_check(frames, frame, count, order + 1);
    if (status < 0)
        return status;
    block_unmark(frames, frame, count);
    status = slot_give_bits(frames, own, row, mc_run_mask(order) << frame % MC_ROW_FRAMES);
    if (status == MC_OK)
        own->frees += count;
    return status;
}

/* A slot that holds nothing takes any row here; one that nobody claimed has held none. */
int mc_frames_free(struct mc_frames *frames, int slot, uint64_t frame, int order)
{
    if (__builtin_expect(order == 0 && (uint32_t)slot < MC_SLOTS
                         && frame < mc_frame_limit(frames), 1)) {
        struct mc_slot *own = &frames->slots[slot];
        uint32_t row = (uint32_t)(frame / MC_ROW_FRAMES), held = mc_slot_row(own);
        uint64_t free = mc_slot_free(own);
        if (__builtin_expect((row == held || (free == 0 && held != MC_NO_ROW))
                             && mc_head(frames, frame) == MC_HEAD_SINGLE, 1)) {
            mc_head_set(frames, frame, MC_HEAD_FREED);
            mc_slot_hold(own, row, free | 1ull << frame % MC_ROW_FRAMES);
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
    return areas_free(frames, own, frame, count);
}

/* 1 when the next 64 frames are one whole row in its order, all handed out singly; then their heads
 * say freed. */
static int row_take_heads(struct mc_frames *frames, const uint32_t *in)
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
        if (count - done >= MC_ROW_FRAMES && row_take_heads(frames, in + done)) {
            bits = MC_ROW_FULL;
            next += MC_ROW_FRAMES;
        }
        for (; bits != MC_ROW_FULL && next < count && in[next] / MC_ROW_FRAMES == row; next++) {
            *status = block_check(frames, in[next], 1, MC_HEAD_SINGLE);
            if (*status < 0)
                break;
            mc_head_set(frames, in[next], MC_HEAD_FREED);
            bits |= 1ull << in[next] % MC_ROW_FRAMES;
        }
        if (bits != 0 && slot_give_bits(frames, own, row, bits) < 0)
            *status = MC_EDOUBLE;
        own->frees += next - done;
        done = next;
    }
    return (int64_t)done;
}
