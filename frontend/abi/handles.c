/* handles.c: see handles.h; pinning and unpinning of movable.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "handles.h"

#include "movable.h"

#include <sched.h>
#include <stdlib.h>

#define NO_HANDLE UINT32_MAX

static struct mc_handles *handles_make(const struct mc_guest *guest)
{
    uint32_t count = guest->frames.area_count * MC_AREA_FRAMES;
    struct mc_handles *made = calloc(1, sizeof *made);
    uint32_t *words = calloc((size_t)count * 4, sizeof *words);

    if (made == NULL || words == NULL) {
        free(made);
        free(words);
        return NULL;
    }
    made->frames = words;
    made->states = words + count;
    made->owners = words + 2 * (size_t)count;
    made->next_free = words + 3 * (size_t)count;
    for (uint32_t i = 0; i < count; i++)
        made->next_free[i] = i + 1 < count ? i + 1 : NO_HANDLE;
    made->slot = -1;
    pthread_mutex_init(&made->lock, NULL);
    return made;
}

static void handles_free(struct mc_handles *table)
{
    pthread_mutex_destroy(&table->lock);
    free(table->frames);
    free(table);
}

static struct mc_handles *handles_seen(struct mc_guest *guest)
{
    return __atomic_load_n(&guest->own->handles, __ATOMIC_ACQUIRE);
}

struct mc_handles *mc_handles_of(struct mc_guest *guest)
{
    struct mc_handles *made, *none = NULL;

    if (handles_seen(guest) != NULL || (made = handles_make(guest)) == NULL)
        return handles_seen(guest);
    if (!__atomic_compare_exchange_n(&guest->own->handles, &none, made, 0, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE))
        handles_free(made);
    return handles_seen(guest);
}

void mc_handles_close(struct mc_guest *guest)
{
    struct mc_handles *table = handles_seen(guest);

    if (table == NULL)
        return;
    if (table->slot >= 0)
        mc_slot_release(&guest->frames, table->slot);
    handles_free(table);
}

uint32_t mc_handle_take(struct mc_handles *table, uint32_t frame)
{
    uint32_t handle;

    pthread_mutex_lock(&table->lock);
    handle = table->first_free;
    table->first_free = table->next_free[handle];
    pthread_mutex_unlock(&table->lock);
    table->frames[handle] = frame;
    mc_handle_unlock(&table->states[handle]);
    __atomic_store_n(&table->owners[frame], handle + 1, __ATOMIC_RELEASE);
    return handle;
}

uint32_t mc_handle_give(struct mc_handles *table, uint32_t handle)
{
    uint32_t frame = table->frames[handle];

    __atomic_store_n(&table->owners[frame], 0, __ATOMIC_RELEASE);
    pthread_mutex_lock(&table->lock);
    table->next_free[handle] = table->first_free;
    table->first_free = handle;
    pthread_mutex_unlock(&table->lock);
    __atomic_store_n(&table->states[handle], 0, __ATOMIC_RELEASE);
    return frame;
}

uint32_t *mc_handle_state(struct mc_guest *guest, uint32_t handle)
{
    struct mc_handles *table = handles_seen(guest);

    return table != NULL && handle < guest->frames.area_count * MC_AREA_FRAMES
               ? &table->states[handle] : NULL;
}

int mc_handle_lock(uint32_t *state)
{
    uint32_t unpinned = 1;

    return __atomic_compare_exchange_n(state, &unpinned, MC_HANDLE_MOVING, 0, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

void mc_handle_unlock(uint32_t *state)
{
    __atomic_store_n(state, 1, __ATOMIC_RELEASE);
}

int64_t mc_movable_pin(struct mc_guest *guest, uint32_t handle)
{
    uint32_t *state = mc_handle_state(guest, handle), seen;

    if (state == NULL)
        return MC_ENEVER;
    for (int tries = 0; tries < MC_PIN_TRIES_MAX; tries++) {
        seen = __atomic_load_n(state, __ATOMIC_RELAXED);
        if (seen == 0)
            return MC_ENEVER;
        if (seen & MC_HANDLE_MOVING)
            sched_yield();
        else if (__atomic_compare_exchange_n(state, &seen, seen + 1, 0, __ATOMIC_ACQUIRE,
                                             __ATOMIC_RELAXED))
            return handles_seen(guest)->frames[handle];
    }
    return MC_ETIMEOUT;
}

int mc_movable_unpin(struct mc_guest *guest, uint32_t handle)
{
    uint32_t *state = mc_handle_state(guest, handle);

    if (state == NULL || (__atomic_load_n(state, __ATOMIC_RELAXED) & ~MC_HANDLE_MOVING) < 2)
        return MC_ENEVER;
    __atomic_fetch_sub(state, 1, __ATOMIC_RELEASE);
    return MC_OK;
}
