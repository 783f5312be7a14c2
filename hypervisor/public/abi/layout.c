/* layout.c: the meta region as a whole, at rest: lay it out, check it, count it, mend it.
 *
 * The layout follows from the number of areas alone, so checking a control page is computing it
 * again and comparing every field: what is aligned, in bounds and free of overlap here is so there.
 *
 * validate() and recover() read the heads as the truth. A head is written after the bodies of its
 * block and removed before them, so at whatever instruction a thread died, a block either has its
 * head, and is handed out, or has none, and is free.
 */
#include "claims.h"
#include "ring.h"

#include <string.h>

static uint64_t page_up(uint64_t bytes)
{
    return (bytes + MC_FRAME_BYTES - 1) / MC_FRAME_BYTES * MC_FRAME_BYTES;
}

static struct mc_control layout_of(uint32_t areas)
{
    struct mc_control control = {
        .magic = MC_MAGIC,
        .abi_version = MC_ABI_VERSION,
        .areas = areas,
        .trees = (areas + MC_TREE_AREAS - 1) / MC_TREE_AREAS,
        .slots = MC_SLOTS,
        .ring_slots = MC_RING_SLOTS,
        .ram_bytes = (uint64_t)areas * MC_AREA_BYTES,
        .memory_ring_offset = MC_FRAME_BYTES,
        .used_frames = -1,
        .faults = -1,
        .swap_ins = -1,
        .swap_outs = -1,
        .references = -1,
        .committed_frames = -1,
        .stall_ns = -1,
        .idle_permille = -1,
    };
    uint64_t ring = page_up(sizeof(struct mc_ring));
    control.tmem_ring_offset = control.memory_ring_offset + ring;
    control.trees_offset = control.tmem_ring_offset + ring;
    control.areas_offset = control.trees_offset + page_up(control.trees * sizeof(struct mc_tree));
    control.rows_offset = control.areas_offset + page_up(areas * sizeof(uint32_t));
    control.heads_offset = control.rows_offset
                           + page_up((uint64_t)areas * MC_AREA_ROWS * sizeof(uint64_t));
    control.slots_offset = control.heads_offset + page_up((uint64_t)areas * MC_AREA_FRAMES);
    control.meta_bytes = control.slots_offset + page_up(MC_SLOTS * sizeof(struct mc_slot));
    return control;
}

static void bind(struct mc_frames *frames, void *meta, const struct mc_control *control)
{
    char *base = meta;
    *frames = (struct mc_frames){
        .trees = (struct mc_tree *)(base + control->trees_offset),
        .areas = (uint32_t *)(base + control->areas_offset),
        .rows = (uint64_t *)(base + control->rows_offset),
        .heads = (uint8_t *)(base + control->heads_offset),
        .slots = (struct mc_slot *)(base + control->slots_offset),
        .area_count = control->areas,
        .tree_count = control->trees,
        .slot_count = control->slots,
    };
}

int64_t mc_meta_bytes(uint32_t areas)
{
    if (areas == 0 || areas > MC_MAX_AREAS)
        return MC_EINDEX;
    return (int64_t)layout_of(areas).meta_bytes;
}

int mc_meta_format(void *meta, uint64_t meta_bytes, uint32_t domid, uint32_t areas)
{
    struct mc_frames frames;
    if (areas == 0 || areas > MC_MAX_AREAS)
        return MC_EINDEX;
    struct mc_control control = layout_of(areas);
    if (meta == NULL || meta_bytes != control.meta_bytes)
        return MC_ELAYOUT;
    control.domid = domid;
    memcpy(meta, &control, sizeof control);
    mc_ring_format((struct mc_ring *)((char *)meta + control.memory_ring_offset));
    mc_ring_format((struct mc_ring *)((char *)meta + control.tmem_ring_offset));
    bind(&frames, meta, &control);
    for (uint32_t area = 0; area < areas; area++)
        frames.areas[area] = MC_AREA_HUGE | MC_AREA_RECLAIMED | MC_AREA_EVICTED;
    for (uint32_t slot = 0; slot < MC_SLOTS; slot++)
        frames.slots[slot].row = MC_NO_ROW;
    return MC_OK;
}

int mc_meta_check(const void *meta, uint64_t meta_bytes, uint64_t ram_bytes)
{
    struct mc_control seen, wanted;
    if (meta == NULL || meta_bytes < sizeof seen)
        return MC_ELAYOUT;
    memcpy(&seen, meta, sizeof seen);
    if (seen.areas == 0 || seen.areas > MC_MAX_AREAS)
        return MC_ELAYOUT;
    wanted = layout_of(seen.areas);
    wanted.domid = seen.domid;
    /* Everything before the first live field is written once. */
    if (memcmp(&seen, &wanted, offsetof(struct mc_control, heartbeat)) != 0)
        return MC_ELAYOUT;
    return wanted.meta_bytes == meta_bytes && wanted.ram_bytes == ram_bytes ? MC_OK : MC_ELAYOUT;
}

int mc_frames_bind(struct mc_frames *frames, void *meta)
{
    if (frames == NULL || meta == NULL)
        return MC_ELAYOUT;
    bind(frames, meta, meta);
    return MC_OK;
}

int mc_meta_bind(void *meta, uint32_t areas, struct mc_frames *frames, struct mc_ring *rings[2])
{
    struct mc_control control;
    if (areas == 0 || areas > MC_MAX_AREAS)
        return MC_EINDEX;
    control = layout_of(areas);
    bind(frames, meta, &control);
    rings[0] = (struct mc_ring *)((char *)meta + control.memory_ring_offset);
    rings[1] = (struct mc_ring *)((char *)meta + control.tmem_ring_offset);
    return MC_OK;
}

/* Areas of the run that begins with `area`, or 0 when none does. */
static uint32_t run_at(const struct mc_frames *frames, uint32_t area)
{
    uint8_t head = mc_head(frames, (uint64_t)area * MC_AREA_FRAMES);
    uint32_t count = head - MC_HEAD_AREAS + 1u;
    if (head < MC_HEAD_AREAS || count > MC_TREE_AREAS
        || area % MC_TREE_AREAS + count > MC_TREE_AREAS || area + count > frames->area_count)
        return 0;
    for (uint32_t k = 0; k < count; k++)
        if (mc_word(frames, area + k) & MC_AREA_RECLAIMED)
            return 0;
    return count;
}

/* The taken frames of one area by its heads, as rows. Returns how many heads are out of place;
 * with `mend` they are put right: a body without a head is free. */
static uint32_t scan_heads(uint8_t *heads, uint64_t rows[MC_AREA_ROWS], int mend)
{
    uint32_t wrong = 0, next;
    memset(rows, 0, MC_AREA_ROWS * sizeof rows[0]);
    for (uint32_t frame = 0; frame < MC_AREA_FRAMES; frame = next) {
        uint32_t head = heads[frame];
        next = frame + 1;
        if (!mc_head_taken(heads[frame]))
            continue;
        uint32_t count = head <= MC_MAX_ROW_ORDER + 1 ? 1u << (head - 1) : 0;
        if (count == 0 || frame % count != 0) {
            wrong++;
            if (mend)
                heads[frame] = MC_HEAD_FREED;
            continue;
        }
        rows[frame / MC_ROW_FRAMES] |= 1ull << frame % MC_ROW_FRAMES;
        for (; next < frame + count; next++) {
            rows[next / MC_ROW_FRAMES] |= 1ull << next % MC_ROW_FRAMES;
            wrong += heads[next] != MC_HEAD_BODY;
            if (mend)
                heads[next] = MC_HEAD_BODY;
        }
    }
    return wrong;
}

/* What slots hold of a row; sets *twice when a bit is in two. */
static uint64_t held_bits(const struct mc_frames *frames, uint32_t row, int *twice)
{
    uint64_t held = 0;
    for (uint32_t slot = 0; slot < MC_SLOTS; slot++) {
        uint64_t bits = atomic_load(&frames->slots[slot].free);
        if (bits == 0 || atomic_load(&frames->slots[slot].row) != row)
            continue;
        *twice |= (held & bits) != 0;
        held |= bits;
    }
    return held;
}

static int area_is_sound(const struct mc_frames *frames, uint32_t area)
{
    uint64_t rows[MC_AREA_ROWS];
    uint32_t word = mc_word(frames, area), free = word & MC_AREA_FREE_MASK, zeros = 0;
    uint32_t wrong = scan_heads(frames->heads + (uint64_t)area * MC_AREA_FRAMES, rows, 0);
    int twice = 0;
    for (uint32_t k = 0; k < MC_AREA_ROWS; k++) {
        uint32_t row = area * MC_AREA_ROWS + k;
        uint64_t held = held_bits(frames, row, &twice), seen = mc_row(frames, row);
        wrong += (held & rows[k]) != 0 || (held | rows[k]) != seen;
        zeros += (uint32_t)__builtin_popcountll(~seen);
    }
    if (word & MC_AREA_RECLAIMED)
        return !wrong && !twice && (word & MC_AREA_HUGE) && free == 0 && zeros == MC_AREA_FRAMES;
    return !wrong && !twice && !(word & MC_AREA_HUGE) && free == zeros;
}

static int run_is_sound(const struct mc_frames *frames, uint32_t area, uint32_t count)
{
    const uint8_t *heads = frames->heads + (uint64_t)area * MC_AREA_FRAMES;
    for (uint32_t k = 0; k < count; k++) {
        int twice = 0;
        if ((mc_word(frames, area + k) & (MC_AREA_FREE_MASK | MC_AREA_HUGE)) != MC_AREA_HUGE)
            return 0;
        for (uint32_t row = (area + k) * MC_AREA_ROWS; row < (area + k + 1) * MC_AREA_ROWS; row++)
            if (mc_row(frames, row) != 0 || held_bits(frames, row, &twice) != 0)
                return 0;
    }
    for (uint32_t frame = 1; frame < count * MC_AREA_FRAMES; frame++)
        if (heads[frame] != MC_HEAD_BODY)
            return 0;
    return 1;
}

static uint32_t tree_sum(const struct mc_frames *frames, uint32_t tree)
{
    uint32_t sum = 0, area = tree * MC_TREE_AREAS;
    for (uint32_t k = 0; k < MC_TREE_AREAS && area + k < frames->area_count; k++)
        sum += mc_word(frames, area + k) & MC_AREA_FREE_MASK;
    return sum;
}

int mc_frames_validate(const struct mc_frames *frames, uint32_t *where)
{
    uint32_t run;
    for (uint32_t area = 0; area < frames->area_count; area += run ? run : 1) {
        run = run_at(frames, area);
        *where = area;
        if (!(run ? run_is_sound(frames, area, run) : area_is_sound(frames, area)))
            return MC_EBROKEN;
    }
    for (uint32_t tree = 0; tree < frames->tree_count; tree++) {
        *where = tree * MC_TREE_AREAS;
        if (atomic_load(&frames->trees[tree].free_frames) != tree_sum(frames, tree))
            return MC_EBROKEN;
    }
    return MC_OK;
}

/* Rebuild rows and word of the run or area at `area` from its heads; returns areas done. */
static uint32_t mend_area(struct mc_frames *frames, uint32_t area)
{
    uint8_t *heads = frames->heads + (uint64_t)area * MC_AREA_FRAMES;
    uint64_t *rows = frames->rows + area * MC_AREA_ROWS;
    uint32_t run = run_at(frames, area), word = mc_word(frames, area), zeros = 0;
    if (run > 0) {
        memset(rows, 0, run * MC_AREA_ROWS * sizeof rows[0]);
        memset(heads + 1, MC_HEAD_BODY, run * MC_AREA_FRAMES - 1);
        for (uint32_t k = 0; k < run; k++)
            frames->areas[area + k] = (frames->areas[area + k] & ~(uint32_t)MC_AREA_FREE_MASK)
                                      | MC_AREA_HUGE;
        return run;
    }
    word &= ~(uint32_t)(MC_AREA_FREE_MASK | MC_AREA_HUGE | MC_AREA_ISOLATED);
    if (word & MC_AREA_RECLAIMED) {         /* not the guest's: nothing in it can be handed out */
        for (uint32_t frame = 0; frame < MC_AREA_FRAMES; frame++)
            if (mc_head_taken(heads[frame]))
                heads[frame] = MC_HEAD_FREED;
        memset(rows, 0, MC_AREA_ROWS * sizeof rows[0]);
        frames->areas[area] = word | MC_AREA_HUGE;
        return 1;
    }
    scan_heads(heads, rows, 1);
    for (uint32_t k = 0; k < MC_AREA_ROWS; k++)
        zeros += (uint32_t)__builtin_popcountll(~rows[k]);
    frames->areas[area] = word | zeros;
    return 1;
}

int64_t mc_frames_recover(struct mc_frames *frames)
{
    int64_t regained = 0;
    for (uint32_t slot = 0; slot < MC_SLOTS; slot++) {
        frames->slots[slot].free = 0;
        frames->slots[slot].row = MC_NO_ROW;
    }
    for (uint32_t tree = 0; tree < frames->tree_count; tree++)
        regained -= tree_sum(frames, tree);
    for (uint32_t area = 0; area < frames->area_count;)
        area += mend_area(frames, area);
    for (uint32_t tree = 0; tree < frames->tree_count; tree++) {
        atomic_store(&frames->trees[tree].free_frames, tree_sum(frames, tree));
        regained += tree_sum(frames, tree);
    }
    return regained;
}

void mc_frames_statistics(const struct mc_frames *frames, struct mc_frames_statistics *out)
{
    uint64_t taken = 0;
    memset(out, 0, sizeof *out);
    for (uint32_t area = 0; area < frames->area_count; area++) {
        uint32_t word = mc_word(frames, area);
        out->free_frames += word & MC_AREA_FREE_MASK;
        if (word & MC_AREA_RECLAIMED) {
            out->reclaimed_areas++;
            continue;
        }
        out->evicted_areas += (word & MC_AREA_EVICTED) != 0;
        out->huge_areas += (word & MC_AREA_HUGE) != 0;
        taken += word & MC_AREA_HUGE ? MC_AREA_FRAMES : 0;
        for (uint32_t row = area * MC_AREA_ROWS; row < (area + 1) * MC_AREA_ROWS; row++)
            taken += (uint64_t)__builtin_popcountll(mc_row(frames, row));
    }
    for (uint32_t slot = 0; slot < MC_SLOTS; slot++) {
        const struct mc_slot *own = &frames->slots[slot];
        out->slot_frames += (uint64_t)__builtin_popcountll(atomic_load(&own->free));
        out->allocs += own->allocs;
        out->frees += own->frees;
        out->refills += own->refills;
        out->prepares += own->prepares;
    }
    out->taken_frames = taken > out->slot_frames ? taken - out->slot_frames : 0;
}

int mc_frames_is_taken(const struct mc_frames *frames, uint64_t frame)
{
    return frame < mc_frame_limit(frames) && mc_head_taken(mc_head(frames, frame));
}
