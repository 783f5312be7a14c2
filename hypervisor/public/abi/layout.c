/* layout.c: the meta region as a whole, at rest: lay it out, check it, count it.
 *
 * The layout follows from the number of areas alone. So checking a control page is computing it
 * again and comparing every field: what is aligned, in bounds and free of overlap here is so there.
 *
 * mc_frames_validate takes the heads as the truth and compares rows, area words and trees with
 * them.
 */
#include "claims.h"
#include "ring.h"

#include <string.h>

static uint64_t page_up(uint64_t bytes)
{
    MC_CHECK(bytes <= UINT64_MAX - MC_FRAME_BYTES, "a section of %lu bytes", bytes);
    return (bytes + MC_FRAME_BYTES - 1) / MC_FRAME_BYTES * MC_FRAME_BYTES;
}

/* What every user of a layout relies on: each section begins on a page, after the one before. */
static void layout_check(const struct mc_control *control)
{
    const uint64_t begins[] = {
        control->memory_ring_offset, control->tmem_ring_offset, control->trees_offset,
        control->areas_offset,       control->rows_offset,      control->heads_offset,
        control->slots_offset,       control->meta_bytes,
    };
    uint64_t end = sizeof *control;
    for (size_t k = 0; k < sizeof begins / sizeof begins[0]; k++) {
        MC_CHECK(begins[k] % MC_FRAME_BYTES == 0, "section %zu begins at %lu", k, begins[k]);
        MC_CHECK(begins[k] >= end, "section %zu begins at %lu, before %lu", k, begins[k], end);
        end = begins[k];
    }
    MC_CHECK(control->trees * MC_TREE_AREAS >= control->areas, "%u trees for %u areas",
             control->trees, control->areas);
    MC_CHECK(control->ram_bytes == (uint64_t)control->areas * MC_AREA_BYTES,
             "%u areas in %lu bytes", control->areas, control->ram_bytes);
    MC_CHECK(control->slots == MC_SLOTS, "a layout with %u slots", control->slots);
    MC_CHECK(control->ring_slots == MC_RING_SLOTS, "a layout with rings of %u records",
             control->ring_slots);
}

static struct mc_control layout_of(uint32_t areas)
{
    MC_CHECK(areas >= 1 && areas <= MC_MAX_AREAS, "a layout for %u areas", areas);
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
    layout_check(&control);
    return control;
}

static void view_bind(struct mc_frames *frames, void *meta, const struct mc_control *control)
{
    char *base = meta;
    MC_CHECK((uintptr_t)meta % _Alignof(struct mc_control) == 0, "meta lies at %p", meta);
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
    const union mc_area_word host = {.huge = 1, .reclaimed = 1, .evicted = 1};
    struct mc_frames frames;
    if (areas == 0 || areas > MC_MAX_AREAS)
        return MC_EINDEX;
    struct mc_control control = layout_of(areas);
    if (meta == NULL || meta_bytes != control.meta_bytes)
        return MC_ELAYOUT;
    MC_CHECK(domid < MC_MAX_DOMAINS, "domain %u", domid);
    control.domid = domid;
    memcpy(meta, &control, sizeof control);
    mc_ring_format((struct mc_ring *)((char *)meta + control.memory_ring_offset));
    mc_ring_format((struct mc_ring *)((char *)meta + control.tmem_ring_offset));
    view_bind(&frames, meta, &control);
    for (uint32_t area = 0; area < areas; area++)
        frames.areas[area] = host.bits;
    for (uint32_t slot = 0; slot < MC_SLOTS; slot++)
        frames.slots[slot].row = MC_NO_ROW;
    return MC_OK;
}

int mc_meta_check(const void *meta, uint64_t meta_bytes, uint64_t ram_bytes)
{
    struct mc_control seen;
    if (meta == NULL || meta_bytes < sizeof seen)
        return MC_ELAYOUT;
    memcpy(&seen, meta, sizeof seen);
    if (seen.areas == 0 || seen.areas > MC_MAX_AREAS)
        return MC_ELAYOUT;
    struct mc_control wanted = layout_of(seen.areas);
    wanted.domid = seen.domid;
    /* The fields before the heartbeat are written once; those from there on change. */
    if (memcmp(&seen, &wanted, offsetof(struct mc_control, heartbeat)) != 0)
        return MC_ELAYOUT;
    return wanted.meta_bytes == meta_bytes && wanted.ram_bytes == ram_bytes ? MC_OK : MC_ELAYOUT;
}

int mc_frames_bind(struct mc_frames *frames, void *meta)
{
    if (frames == NULL || meta == NULL)
        return MC_ELAYOUT;
    view_bind(frames, meta, meta);
    return MC_OK;
}

int mc_meta_bind(void *meta, uint32_t areas, struct mc_frames *frames,
                 struct mc_ring *rings[MC_RINGS])
{
    if (areas == 0 || areas > MC_MAX_AREAS)
        return MC_EINDEX;
    MC_CHECK(meta != NULL, "a view of %u areas of nothing", areas);
    struct mc_control control = layout_of(areas);
    view_bind(frames, meta, &control);
    rings[0] = (struct mc_ring *)((char *)meta + control.memory_ring_offset);
    rings[1] = (struct mc_ring *)((char *)meta + control.tmem_ring_offset);
    return MC_OK;
}

/* Areas of the run that begins with `area`, or 0 when none does. */
static uint32_t run_at(const struct mc_frames *frames, uint32_t area)
{
    MC_CHECK(area < frames->area_count, "area %u of %u", area, frames->area_count);
    uint8_t head = mc_head(frames, (uint64_t)area * MC_AREA_FRAMES);
    uint32_t count = head - MC_HEAD_AREAS + 1u;
    if (head < MC_HEAD_AREAS || count > MC_TREE_AREAS
        || area % MC_TREE_AREAS + count > MC_TREE_AREAS || area + count > frames->area_count)
        return 0;
    for (uint32_t k = 0; k < count; k++)
        if (mc_word(frames, area + k).reclaimed)
            return 0;
    return count;
}

/* The taken frames of one area by its heads, as rows. Returns how many heads are out of place. */
static uint32_t heads_scan(const uint8_t *heads, uint64_t rows[MC_AREA_ROWS])
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
            continue;
        }
        rows[frame / MC_ROW_FRAMES] |= 1ull << frame % MC_ROW_FRAMES;
        for (; next < frame + count; next++) {
            rows[next / MC_ROW_FRAMES] |= 1ull << next % MC_ROW_FRAMES;
            wrong += heads[next] != MC_HEAD_BODY;
        }
    }
    return wrong;
}

/* The frames of a row that slots hold; sets *twice when two slots hold the same. */
static uint64_t row_held(const struct mc_frames *frames, uint32_t row, int *twice)
{
    uint64_t held = 0;
    MC_CHECK(row < frames->area_count * MC_AREA_ROWS, "row %u of %u areas", row,
             frames->area_count);
    MC_CHECK(frames->slot_count == MC_SLOTS, "a view with %u slots", frames->slot_count);
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
    uint32_t zeros = 0;
    MC_CHECK(area < frames->area_count, "area %u of %u", area, frames->area_count);
    union mc_area_word word = mc_word(frames, area);
    uint32_t wrong = heads_scan(frames->heads + (uint64_t)area * MC_AREA_FRAMES, rows);
    int twice = 0;
    for (uint32_t k = 0; k < MC_AREA_ROWS; k++) {
        uint32_t row = area * MC_AREA_ROWS + k;
        uint64_t held = row_held(frames, row, &twice), seen = mc_row(frames, row);
        wrong += (held & rows[k]) != 0 || (held | rows[k]) != seen;
        zeros += (uint32_t)__builtin_popcountll(~seen);
    }
    if (word.reclaimed)
        return !wrong && !twice && word.huge && word.free == 0 && zeros == MC_AREA_FRAMES;
    return !wrong && !twice && !word.huge && word.free == zeros;
}

static int run_is_sound(const struct mc_frames *frames, uint32_t area, uint32_t count)
{
    const uint8_t *heads = frames->heads + (uint64_t)area * MC_AREA_FRAMES;
    MC_CHECK(count >= 1 && area + count <= frames->area_count, "%u areas from %u of %u", count,
             area, frames->area_count);
    MC_CHECK(area % MC_TREE_AREAS + count <= MC_TREE_AREAS, "%u areas from %u", count, area);
    for (uint32_t k = 0; k < count; k++) {
        union mc_area_word word = mc_word(frames, area + k);
        int twice = 0;
        if (word.free != 0 || !word.huge)
            return 0;
        for (uint32_t row = (area + k) * MC_AREA_ROWS; row < (area + k + 1) * MC_AREA_ROWS; row++)
            if (mc_row(frames, row) != 0 || row_held(frames, row, &twice) != 0)
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
    MC_CHECK(tree < frames->tree_count, "tree %u of %u", tree, frames->tree_count);
    for (uint32_t k = 0; k < MC_TREE_AREAS && area + k < frames->area_count; k++)
        sum += mc_word(frames, area + k).free;
    return sum;
}

int mc_frames_validate(const struct mc_frames *frames, uint32_t *where)
{
    uint32_t run;
    MC_CHECK(frames->area_count <= frames->tree_count * MC_TREE_AREAS, "%u areas in %u trees",
             frames->area_count, frames->tree_count);
    MC_CHECK(where != NULL, "%u areas, and no place for the one that is wrong", frames->area_count);
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

void mc_frames_statistics(const struct mc_frames *frames, struct mc_frames_statistics *out)
{
    uint64_t taken = 0;
    MC_CHECK(frames->slot_count == MC_SLOTS, "a view with %u slots", frames->slot_count);
    MC_CHECK(frames->area_count <= frames->tree_count * MC_TREE_AREAS, "%u areas in %u trees",
             frames->area_count, frames->tree_count);
    memset(out, 0, sizeof *out);
    for (uint32_t area = 0; area < frames->area_count; area++) {
        union mc_area_word word = mc_word(frames, area);
        out->free_frames += word.free;
        if (word.reclaimed) {
            out->reclaimed_areas++;
            continue;
        }
        out->evicted_areas += word.evicted;
        out->huge_areas += word.huge;
        taken += word.huge ? MC_AREA_FRAMES : 0;
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
