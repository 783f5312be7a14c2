/* allocator_faults.c: one fault per check of the allocator, the ring and the memory calls.
 *
 * Usage: allocator_faults NAME. The program makes a sound region, injects the fault NAME and calls
 * what must notice. It ends by the check's SIGABRT, with 0 when nothing was noticed, or with 2 when
 * there is no such fault. The sources are included, so that a fault can be passed to a static
 * function where no caller of ours could pass it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "frames.c"
#include "layout.c"
#include "reclaim.c"
#include "search.c"
#include "ring.c"
#include "bell.c"
#include "backing.c"

#define AREAS 20

static struct mc_frames frames;
static void *meta;
static int slot;

static struct mc_slot *own(void)
{
    return &frames.slots[slot];
}

static int64_t alloc(int order)
{
    return mc_frames_alloc(&frames, slot, order);
}

static int prepare_wrongly(void *context, uint32_t area, uint32_t word)
{
    (void)area, (void)word;
    if (context != NULL)
        mc_slot_set_free(own(), 1);
    return context != NULL ? 1 : 2;
}

static void sound_region(void)
{
    uint64_t bytes = (uint64_t)mc_meta_bytes(AREAS);
    meta = calloc(1, bytes);
    if (meta == NULL || mc_meta_format(meta, bytes, 1, AREAS) != MC_OK ||
        mc_frames_bind(&frames, meta) != MC_OK)
        exit(3);
    for (uint32_t area = 0; area < AREAS; area++)
        mc_area_grant(&frames, area, 0);
    slot = mc_slot_claim(&frames, 1);
}

/* ---- faults of the guest's own words ---- */

static void block_beyond_the_end(void)
{
    block_check_free(&frames, mc_frame_limit(&frames) - 1, 2);
}

static void slot_holds_what_is_free(void)
{
    alloc(0);
    frames.rows[mc_slot_row(own())] = 1;
    mc_slot_drain(&frames, slot);
}

static void view_without_slots(void)
{
    frames.slot_count = 0;
    mc_slot_claim(&frames, 2);
}

static void unowned_slot_holds_frames(void)
{
    mc_slot_hold(&frames.slots[slot + 1], 5, 7);
    mc_slot_claim(&frames, 2);
}

static void run_of_no_areas(void)
{
    areas_free(&frames, own(), 0, 0);
}

static void block_handed_out_twice(void)
{
    frames.heads[0] = 3;
    alloc(7);
}

static void block_with_its_end_handed_out(void)
{
    frames.heads[MC_AREA_FRAMES - 1] = MC_HEAD_BODY;
    alloc(9);
}

static void block_without_its_body(void)
{
    int64_t frame = alloc(8);
    frames.heads[frame + 255] = MC_HEAD_FREED;
    mc_frames_free(&frames, slot, (uint64_t)frame, 8);
}

static void drain_of_no_row(void)
{
    mc_slot_hold(own(), AREAS * MC_AREA_ROWS, 1);
    mc_slot_drain(&frames, slot);
}

static void unowned_slot_with_a_row(void)
{
    atomic_store(&frames.slots[slot + 1].row, 5);
    mc_slot_claim(&frames, 2);
}

static void claim_with_too_many_trees(void)
{
    frames.tree_count = 100;
    mc_slot_claim(&frames, 2);
}

static void row_clear_of_a_free_row(void)
{
    int64_t frame = alloc(7);
    frames.rows[frame / MC_ROW_FRAMES + 1] = 1;
    mc_frames_free(&frames, slot, (uint64_t)frame, 7);
}

static void rows_across_areas(void)
{
    mc_rows_clear(&frames, 7, 2);
}

static void prepare_answers_nonsense(void)
{
    frames.prepare = prepare_wrongly;
    alloc(0);
}

static void prepare_uses_the_slot(void)
{
    frames.prepare = prepare_wrongly;
    frames.prepare_context = &frames;
    alloc(9);
}

static void refill_of_a_full_slot(void)
{
    mc_slot_hold(own(), 0, 1);
    mc_search_refill(&frames, own());
}

static void search_for_a_frame(void)
{
    mc_search_block(&frames, own(), 0);
}

static void search_for_seventeen_areas(void)
{
    mc_search_areas(&frames, own(), 17);
}

static void search_for_nothing(void)
{
    search(&frames, own(), try_refill, 0, 0);
}

static void search_without_trees(void)
{
    frames.tree_count = 1;
    alloc(0);
}

/* ---- arguments that no caller may pass ---- */

static void claim_beyond_the_end(void)
{
    union mc_area_word word;
    mc_claim(&frames, AREAS, 1, 1, &word);
}

static void claim_of_too_much(void)
{
    union mc_area_word word;
    mc_claim(&frames, 0, 1, MC_AREA_FRAMES + 1, &word);
}

static void search_with_no_slot(void)
{
    struct mc_slot elsewhere = {0};
    mc_search_refill(&frames, &elsewhere);
}

static void reclaim_without_trees(void)
{
    frames.tree_count = 1;
    mc_area_hard_reclaim(&frames, AREAS - 1, 1);
}

static void give_of_half_an_area(void)
{
    const union mc_area_word half = {.free = 256};
    area_give(&frames, 0, half);
}

static void section_without_end(void)
{
    page_up(UINT64_MAX);
}

static void layout_beside_a_page(void)
{
    struct mc_control control = layout_of(AREAS);
    control.rows_offset += 8;
    layout_check(&control);
}

static void layout_out_of_order(void)
{
    struct mc_control control = layout_of(AREAS);
    control.rows_offset = control.areas_offset - MC_FRAME_BYTES;
    layout_check(&control);
}

static void layout_with_too_few_trees(void)
{
    struct mc_control control = layout_of(AREAS);
    control.trees = 1;
    layout_check(&control);
}

static void layout_with_too_little_ram(void)
{
    struct mc_control control = layout_of(AREAS);
    control.ram_bytes--;
    layout_check(&control);
}

static void layout_with_no_slots(void)
{
    struct mc_control control = layout_of(AREAS);
    control.slots = 0;
    layout_check(&control);
}

static void layout_with_half_a_ring(void)
{
    struct mc_control control = layout_of(AREAS);
    control.ring_slots /= 2;
    layout_check(&control);
}

static void format_for_no_domain(void)
{
    mc_meta_format(meta, (uint64_t)mc_meta_bytes(AREAS), MC_MAX_DOMAINS, AREAS);
}

static void sound_area_beyond_the_end(void)
{
    area_is_sound(&frames, AREAS);
}

static void sound_run_in_two_trees(void)
{
    run_is_sound(&frames, MC_TREE_AREAS - 1, 2);
}

static void validate_without_trees(void)
{
    uint32_t where;
    frames.tree_count = 1;
    mc_frames_validate(&frames, &where);
}

static void statistics_without_slots(void)
{
    struct mc_frames_statistics out;
    frames.slot_count = 0;
    mc_frames_statistics(&frames, &out);
}

static void word_unclaim_beyond_the_end(void)
{
    mc_word_unclaim(&frames, AREAS);
}

static void transition_without_trees(void)
{
    frames.tree_count = 0;
    mc_area_soft_reclaim(&frames, 0, 1);
}

static void transition_of_a_kept_field(void)
{
    const union mc_area_word huge = {.huge = 1};
    word_transition(&frames, 0, word_is_evicted, 1, huge);
}

static void transition_to_no_state(void)
{
    const union mc_area_word half = {.reclaimed = 1};
    word_transition(&frames, 0, mc_word_is_whole, 0, half);
}

static void layout_of_nothing(void)
{
    layout_of(0);
}

static void view_of_nothing(void)
{
    struct mc_ring *rings[MC_RINGS];
    mc_meta_bind(NULL, AREAS, &frames, rings);
}

static void view_of_a_crooked_region(void)
{
    struct mc_control control = layout_of(AREAS);
    view_bind(&frames, (char *)meta + 1, &control);
}

static void run_beyond_the_end(void)
{
    run_at(&frames, AREAS);
}

static void held_row_beyond_the_end(void)
{
    int twice;
    row_held(&frames, AREAS * MC_AREA_ROWS, &twice);
}

static void held_row_without_slots(void)
{
    int twice;
    frames.slot_count = 1;
    row_held(&frames, 0, &twice);
}

static void sound_run_beyond_the_end(void)
{
    run_is_sound(&frames, AREAS - 1, 2);
}

static void sum_of_no_tree(void)
{
    tree_sum(&frames, frames.tree_count);
}

static void validate_into_nothing(void)
{
    mc_frames_validate(&frames, NULL);
}

static void statistics_without_trees(void)
{
    struct mc_frames_statistics out;
    frames.tree_count = 1;
    mc_frames_statistics(&frames, &out);
}

/* ---- private indices of a ring, arguments of bells and of memory calls ---- */

static struct mc_front front;
static struct mc_back back;
static struct mc_record record;

static void front_publishes_too_much(void)
{
    front.req_prod = front.req_published + MC_RING_SLOTS + 1;
    mc_front_publish(&front);
}

static void front_with_too_many_requests(void)
{
    front.req_prod = MC_RING_SLOTS + 1;
    mc_front_push(&front, &record);
}

static void front_answered_before_it_asked(void)
{
    front.rsp_cons = 1;
    mc_front_pop(&front, &record);
}

static void back_with_too_many_unanswered(void)
{
    back.req_cons = MC_RING_SLOTS + 1;
    mc_back_pending(&back);
}

static void back_answers_more_than_was_asked(void)
{
    back.rsp_prod = 1;
    mc_back_push(&back, &record);
}

static void bell_crooked(void)
{
    uint32_t words[2];
    bell_wake((uint32_t *)((char *)words + 1), words);
}

static void mapping_of_half_a_page(void)
{
    backing_map(-1, MAP_PRIVATE | MAP_ANONYMOUS, 2048);
}

static void tree_beyond_the_end(void)
{
    mc_tree_mend(&frames, frames.tree_count * MC_TREE_AREAS);
}

static void mapping_across_areas(void)
{
    int fd = memfd_create("memcoord-faults", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, MC_AREA_BYTES) == 0)
        mc_map_at(fd, MC_AREA_BYTES, MC_AREA_BYTES / 2);
}

static void huge_half_area(void)
{
    mc_populate_huge(MC_AREA_BYTES, MC_AREA_BYTES / 2);
}

#define FAULT(name) {#name, name}

static const struct {
    const char *name;
    void (*inject)(void);
} faults[] = {
    FAULT(block_beyond_the_end), FAULT(slot_holds_what_is_free), FAULT(view_without_slots),
    FAULT(unowned_slot_holds_frames), FAULT(run_of_no_areas), FAULT(block_handed_out_twice),
    FAULT(block_with_its_end_handed_out), FAULT(block_without_its_body), FAULT(drain_of_no_row),
    FAULT(unowned_slot_with_a_row), FAULT(claim_with_too_many_trees),
    FAULT(row_clear_of_a_free_row), FAULT(rows_across_areas), FAULT(prepare_answers_nonsense),
    FAULT(prepare_uses_the_slot), FAULT(refill_of_a_full_slot), FAULT(search_for_a_frame),
    FAULT(search_for_seventeen_areas), FAULT(search_for_nothing), FAULT(search_without_trees),
    FAULT(claim_beyond_the_end), FAULT(claim_of_too_much), FAULT(search_with_no_slot),
    FAULT(reclaim_without_trees), FAULT(give_of_half_an_area), FAULT(section_without_end),
    FAULT(layout_beside_a_page), FAULT(layout_out_of_order), FAULT(layout_with_too_few_trees),
    FAULT(layout_with_too_little_ram), FAULT(layout_with_no_slots), FAULT(layout_with_half_a_ring),
    FAULT(mapping_across_areas), FAULT(tree_beyond_the_end), FAULT(format_for_no_domain),
    FAULT(sound_area_beyond_the_end), FAULT(sound_run_in_two_trees),
    FAULT(validate_without_trees), FAULT(statistics_without_slots),
    FAULT(word_unclaim_beyond_the_end), FAULT(transition_without_trees),
    FAULT(transition_of_a_kept_field), FAULT(transition_to_no_state), FAULT(layout_of_nothing),
    FAULT(view_of_nothing), FAULT(view_of_a_crooked_region), FAULT(run_beyond_the_end),
    FAULT(held_row_beyond_the_end), FAULT(held_row_without_slots),
    FAULT(sound_run_beyond_the_end), FAULT(sum_of_no_tree), FAULT(validate_into_nothing),
    FAULT(statistics_without_trees), FAULT(front_publishes_too_much),
    FAULT(front_with_too_many_requests), FAULT(front_answered_before_it_asked),
    FAULT(back_with_too_many_unanswered), FAULT(back_answers_more_than_was_asked),
    FAULT(bell_crooked), FAULT(mapping_of_half_a_page), FAULT(huge_half_area),
};

/* The fields of the area word are the bits that the masks name. */
static int masks_agree(void)
{
    const union mc_area_word words[] = {{.free = 0x3ff}, {.huge = 1},     {.evicted = 1},
                                        {.reclaimed = 1}, {.isolated = 1}, {.generation = 1}};
    const uint32_t masks[] = {MC_AREA_FREE_MASK, MC_AREA_HUGE,     MC_AREA_EVICTED,
                              MC_AREA_RECLAIMED, MC_AREA_ISOLATED, 1u << 16};
    for (size_t k = 0; k < sizeof masks / sizeof masks[0]; k++)
        if (words[k].bits != masks[k])
            return 0;
    return 1;
}

int main(int count, char **arguments)
{
    struct mc_ring *ring;
    if (count == 2 && strcmp(arguments[1], "masks") == 0)
        return masks_agree() ? 0 : 1;
    sound_region();
    ring = (struct mc_ring *)((char *)meta + ((struct mc_control *)meta)->memory_ring_offset);
    atomic_store(&ring->rsp_prod, 2);       /* what a hypervisor may write is no fault of ours */
    mc_front_bind(&front, ring);
    mc_back_bind(&back, ring);
    for (size_t k = 0; k < sizeof faults / sizeof faults[0]; k++) {
        if (count == 1)
            puts(faults[k].name);
        if (count == 1 || strcmp(arguments[1], faults[k].name) != 0)
            continue;
        faults[k].inject();
        return 0;
    }
    return count == 1 ? 0 : 2;
}
