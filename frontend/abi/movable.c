/* movable.c: migration, and taking areas out of use. See movable.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "movable.h"

#include "claims.h"
#include "handles.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SWAP_TRIES_MAX 64

int64_t mc_movable_alloc(struct mc_guest *guest, int slot)
{
    struct mc_handles *table = mc_handles_of(guest);
    int64_t frame = table == NULL ? MC_ENOMEM : mc_guest_alloc(guest, slot, 0);

    return frame < 0 ? frame : (int64_t)mc_handle_take(table, (uint32_t)frame);
}

int mc_movable_free(struct mc_guest *guest, int slot, uint32_t handle)
{
    int64_t pinned = mc_movable_pin(guest, handle);

    if (pinned < 0)
        return (int)pinned;
    mc_movable_unpin(guest, handle);
    if (!mc_handle_lock(mc_handle_state(guest, handle)))
        return MC_ESTATE;
    return mc_frames_free(&guest->frames, slot, mc_handle_give(mc_handles_of(guest), handle), 0);
}

int mc_isolate(struct mc_guest *guest, uint32_t area)
{
    union mc_area_word seen, isolated;

    if (area >= guest->frames.area_count)
        return MC_ESTATE;
    seen = mc_word(&guest->frames, area);
    for (int tries = 0; tries < SWAP_TRIES_MAX; tries++) {
        if (seen.huge || seen.reclaimed || seen.isolated)
            return MC_ESTATE;
        isolated = seen;
        isolated.isolated = 1;
        if (mc_word_swap(&guest->frames, area, &seen, isolated))
            return MC_OK;
    }
    return MC_ESTATE;
}

/* Copy one movable frame to `to`; 1 when it was done. */
static int frame_move(struct mc_guest *guest, struct mc_handles *table, uint32_t frame,
                      uint32_t to)
{
    uint32_t owner = __atomic_load_n(&table->owners[frame], __ATOMIC_ACQUIRE);
    uint32_t handle = owner - 1;

    if (owner == 0 || !mc_handle_lock(&table->states[handle]))
        return 0;
    if (table->frames[handle] != frame) {       /* it was freed, and the handle used anew */
        mc_handle_unlock(&table->states[handle]);
        return 0;
    }
    memcpy(guest->ram + (uint64_t)to * MC_FRAME_BYTES,
           guest->ram + (uint64_t)frame * MC_FRAME_BYTES, MC_FRAME_BYTES);
    table->frames[handle] = to;
    __atomic_store_n(&table->owners[frame], 0, __ATOMIC_RELEASE);
    __atomic_store_n(&table->owners[to], handle + 1, __ATOMIC_RELEASE);
    mc_handle_unlock(&table->states[handle]);
    atomic_fetch_add_explicit(&guest->control->migrated_frames, 1, memory_order_relaxed);
    return 1;
}

/* Free a frame without the slot of the migrating thread, which would hand it out again. */
static void frame_give_back(struct mc_guest *guest, uint32_t frame)
{
    __atomic_store_n(&guest->frames.heads[frame], MC_HEAD_FREED, __ATOMIC_RELAXED);
    mc_row_give(&guest->frames, frame / MC_ROW_FRAMES, 1ull << frame % MC_ROW_FRAMES);
}

static int area_move(struct mc_guest *guest, struct mc_handles *table, uint32_t area)
{
    uint32_t first = area * MC_AREA_FRAMES;
    int64_t spare = MC_ENOMEM;
    int status = MC_OK;

    for (uint32_t frame = first; frame < first + MC_AREA_FRAMES; frame++) {
        if (!__atomic_load_n(&table->owners[frame], __ATOMIC_ACQUIRE))
            continue;
        if (spare < 0)
            spare = mc_frames_alloc(&guest->frames, table->slot, 0);
        if (spare < 0) {
            status = MC_ENOMEM;
            break;
        }
        if (!frame_move(guest, table, frame, (uint32_t)spare))
            continue;
        spare = MC_ENOMEM;
        frame_give_back(guest, frame);
    }
    if (spare >= 0)
        mc_frames_free(&guest->frames, table->slot, (uint64_t)spare, 0);
    mc_slot_drain(&guest->frames, table->slot);
    return status;
}

static int area_is_empty(const struct mc_guest *guest, uint32_t area)
{
    return mc_word_is_empty(mc_word(&guest->frames, area));
}

/* 1 when the slot of the Python threads holds a row of the area. Draining that slot takes the
 * GIL. */
static int slot_is_in(const struct mc_guest *guest, uint32_t area)
{
    const struct mc_slot *slot = &guest->frames.slots[guest->slot];

    return atomic_load_explicit(&slot->row, memory_order_relaxed) / MC_AREA_ROWS == area;
}

int mc_migrate(struct mc_guest *guest, uint32_t area)
{
    struct mc_handles *table;
    int status;

    if (area >= guest->frames.area_count || !mc_word(&guest->frames, area).isolated)
        return MC_ESTATE;
    if (area_is_empty(guest, area))
        return MC_OK;
    if (slot_is_in(guest, area))
        mc_guest_drain(guest);
    if (area_is_empty(guest, area))
        return MC_OK;
    table = mc_handles_of(guest);
    if (table == NULL)
        return MC_ENOMEM;
    if (table->slot < 0)
        table->slot = mc_slot_claim(&guest->frames, (uint32_t)syscall(SYS_gettid));
    if (table->slot < 0)
        return table->slot;
    status = area_move(guest, table, area);
    return area_is_empty(guest, area) ? MC_OK : status ? status : MC_ESTATE;
}

int mc_all_free(const struct mc_guest *guest, uint32_t first, uint32_t count)
{
    uint32_t ours = 0;

    for (uint32_t area = first; area < first + count; area++) {
        union mc_area_word word = mc_word(&guest->frames, area);

        if (word.reclaimed)
            continue;
        if (!mc_word_is_empty(word))
            return 0;
        ours++;
    }
    return ours != 0;
}

/* The tree counts the frames of an isolated area until it is claimed. */
int mc_claim_area(struct mc_guest *guest, uint32_t area)
{
    union mc_area_word seen;

    if (!mc_tree_take(&guest->frames, area, MC_AREA_FRAMES, MC_AREA_FRAMES))
        return MC_ESTATE;
    seen = mc_word(&guest->frames, area);
    for (int i = 0; i < SWAP_TRIES_MAX && seen.isolated && mc_word_is_empty(seen); i++)
        if (mc_word_swap(&guest->frames, area, &seen, mc_word_claimed(seen)))
            return MC_OK;
    mc_tree_give(&guest->frames, area, MC_AREA_FRAMES);
    return MC_ESTATE;
}

void mc_online(struct mc_guest *guest, uint32_t area)
{
    const union mc_area_word isolated = {.isolated = 1};
    union mc_area_word seen = mc_word(&guest->frames, area);

    if (seen.reclaimed)                 /* the host took it */
        return;
    if (!seen.huge) {
        __atomic_fetch_and(&guest->frames.areas[area], ~isolated.bits, __ATOMIC_RELEASE);
        return;
    }
    mc_word_unclaim(&guest->frames, area);
    mc_tree_give(&guest->frames, area, MC_AREA_FRAMES);
}

int mc_offline(struct mc_guest *guest, uint32_t area, int move)
{
    int status = mc_isolate(guest, area);

    if (status != MC_OK)
        return status;
    if (move)
        status = mc_migrate(guest, area);
    if (status == MC_OK)
        status = mc_claim_area(guest, area);
    if (status != MC_OK)
        mc_online(guest, area);
    return status;
}
