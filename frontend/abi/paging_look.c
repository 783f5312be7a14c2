/* paging_look.c: following the domain's target, and telling the hypervisor what is used. */
#include "paging_private.h"

/* Words of the control page are read once; the hypervisor may change them at any time. */
static uint64_t word_of(const _Atomic uint64_t *word, uint64_t most)
{
    uint64_t value = atomic_load_explicit(word, memory_order_relaxed);
    return value < most ? value : most;
}

static uint64_t limit_at(const struct mc_paging *paging, uint64_t target)
{
    const struct mc_paging_options *options = &paging->options;
    uint64_t more = target > options->boot_frames ? target - options->boot_frames : 0;
    uint64_t limit = options->resident_frames + more;
    uint64_t most = target > 1 ? target - 1 : 1;        /* one frame of the target is the spare */
    limit = limit < most ? limit : most;
    return limit > 1 ? limit : 1;
}

void mc_paging_free_spares(struct mc_paging *paging)
{
    uint32_t *spares = paging->own->spares, extra = paging->spare_count;
    int status;
    if (extra < 2)
        return;
    /* After a reboot the allocator is another guest's, and refuses. */
    mc_frames_free_many(&paging->guest->frames, paging->options.slot, spares + 1, extra - 1,
                        &status);
    paging->spare_count = 1;
}

void mc_paging_report(struct mc_paging *paging)
{
    struct mc_control *control = paging->guest->control;
    const struct mc_paging_counted *counted = &paging->counted;
    int64_t used = (int64_t)paging->resident_count + paging->spare_count;
    atomic_store_explicit(&control->used_frames, used, memory_order_relaxed);
    atomic_store_explicit(&control->faults, counted->faults, memory_order_relaxed);
    atomic_store_explicit(&control->swap_ins, counted->swap_ins, memory_order_relaxed);
    atomic_store_explicit(&control->swap_outs, counted->swap_outs, memory_order_relaxed);
    atomic_store_explicit(&control->references, counted->references, memory_order_relaxed);
    atomic_store_explicit(&control->committed_frames, counted->committed_frames,
                          memory_order_relaxed);
    atomic_store_explicit(&control->stall_ns, counted->stall_ns, memory_order_relaxed);
    atomic_store_explicit(&control->idle_permille, paging->idle_permille, memory_order_relaxed);
}

/* Frames above the target, when it is time to give them back. */
static uint64_t excess_at(struct mc_paging *paging, uint64_t target, uint64_t now_ns)
{
    struct mc_paging_private *own = paging->own;
    uint64_t current = word_of(&paging->guest->control->current_frames, own->maxmem_frames);
    if (current > target)       /* areas can only be whole without what the slot holds */
        mc_slot_drain(&paging->guest->frames, paging->options.slot);
    if (current < target + MC_AREA_FRAMES)
        return 0;
    if (now_ns < own->release_ns && target == own->release_target)
        return 0;
    own->release_ns = now_ns + MC_PAGING_RELEASE_NS;
    own->release_target = target;
    return current - target;
}

int mc_paging_look(struct mc_paging *paging)
{
    uint64_t target = word_of(&paging->guest->control->target_frames, paging->own->maxmem_frames);
    uint64_t now_ns = mc_clock_ns();
    uint64_t limit = limit_at(paging, target);
    paging->own->depth = mc_paging_share(limit, paging->options.depth);
    paging->limit = limit - (paging->own->depth - 1);   /* frames for pages under way */
    while (paging->resident_count > paging->limit) {
        uint64_t over = paging->resident_count - paging->limit;
        int status = mc_evict(paging, over < MC_RING_SLOTS ? (uint32_t)over : MC_RING_SLOTS);
        if (status != MC_OK)
            return status;
        mc_paging_free_spares(paging);
    }
    paging->excess = excess_at(paging, target, now_ns);
    if (paging->excess && paging->resident_count < paging->limit)
        mc_paging_free_spares(paging);
    mc_sample_look(paging, paging->options.clock ? mc_paging_now(paging) : now_ns);
    mc_paging_report(paging);
    return MC_OK;
}
