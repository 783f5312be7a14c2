/* movable.c: see movable.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "movable.h"

#include "claims.h"
#include "guest_private.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOVING 0x80000000u      /* in state: being copied; below it: pins + 1 while held, else 0 */
#define NO_HANDLE UINT32_MAX
#define CLAIM_TRIES_MAX 64

/* As many handles as frames. */
struct mc_movables {
    pthread_mutex_t lock;       /* free handles; made when the first is asked for */
    uint32_t *frames;           /* by handle */
    uint32_t *states;           /* by handle, atomic */
    uint32_t *owners;           /* by frame: handle + 1, or 0; atomic */
    uint32_t *next_free;
    uint32_t first_free;
    int slot;                   /* of whoever migrates: one thread */
};

static struct mc_movables *make(const struct mc_guest *guest)
{
    uint32_t count = guest->frames.area_count * MC_AREA_FRAMES;
    struct mc_movables *made = calloc(1, sizeof *made);
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

static struct mc_movables *of(struct mc_guest *guest)
{
    return __atomic_load_n(&guest->own->movables, __ATOMIC_ACQUIRE);
}

/* The table of a guest, made by the first thread that needs it. */
static struct mc_movables *table_of(struct mc_guest *guest)
{
    struct mc_movables *made, *none = NULL;

    if (of(guest) != NULL || (made = make(guest)) == NULL)
        return of(guest);
    if (!__atomic_compare_exchange_n(&guest->own->movables, &none, made, 0, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE)) {
        free(made->frames);
        free(made);
    }
    return of(guest);
}

void mc_movables_close(struct mc_guest *guest)
{
    struct mc_movables *table = of(guest);

    if (table == NULL)
        return;
    if (table->slot >= 0)
        mc_slot_release(&guest->frames, table->slot);
    pthread_mutex_destroy(&table->lock);
    free(table->frames);
    free(table);
}

int64_t mc_movable_alloc(struct mc_guest *guest, int slot)
{
    struct mc_movables *table = table_of(guest);
    int64_t frame = table == NULL ? MC_ENOMEM : mc_guest_alloc(guest, slot, 0);
    uint32_t handle;

    if (frame < 0)
        return frame;
    pthread_mutex_lock(&table->lock);
    handle = table->first_free;         /* a frame came, so there is a handle */
    table->first_free = table->next_free[handle];
    pthread_mutex_unlock(&table->lock);
    table->frames[handle] = (uint32_t)frame;
    __atomic_store_n(&table->states[handle], 1, __ATOMIC_RELEASE);
    __atomic_store_n(&table->owners[frame], handle + 1, __ATOMIC_RELEASE);
    return handle;
}

static uint32_t *state_of(struct mc_guest *guest, uint32_t handle)
{
    struct mc_movables *table = of(guest);

    return table != NULL && handle < guest->frames.area_count * MC_AREA_FRAMES
               ? &table->states[handle] : NULL;
}

int64_t mc_movable_pin(struct mc_guest *guest, uint32_t handle)
{
    uint32_t *state = state_of(guest, handle), seen;

    if (state == NULL)
        return MC_ENEVER;
    for (int tries = 0; tries < MC_PIN_TRIES_MAX; tries++) {
        seen = __atomic_load_n(state, __ATOMIC_RELAXED);
        if (seen == 0)
            return MC_ENEVER;
        if (seen & MOVING)
            sched_yield();
        else if (__atomic_compare_exchange_n(state, &seen, seen + 1, 0, __ATOMIC_ACQUIRE,
                                             __ATOMIC_RELAXED))
            return of(guest)->frames[handle];
    }
    return MC_ETIMEOUT;
}

int mc_movable_unpin(struct mc_guest *guest, uint32_t handle)
{
    uint32_t *state = state_of(guest, handle);

    if (state == NULL || (__atomic_load_n(state, __ATOMIC_RELAXED) & ~MOVING) < 2)
        return MC_ENEVER;
    __atomic_fetch_sub(state, 1, __ATOMIC_RELEASE);
    return MC_OK;
}

/* 1 when the state went from held and unpinned to `wanted`. */
static int take_unpinned(uint32_t *state, uint32_t wanted)
{
    uint32_t unpinned = 1;

    return __atomic_compare_exchange_n(state, &unpinned, wanted, 0, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

int mc_movable_free(struct mc_guest *guest, int slot, uint32_t handle)
{
    struct mc_movables *table = of(guest);
    uint32_t *state = state_of(guest, handle), frame;
    int64_t pinned = mc_movable_pin(guest, handle);

    if (pinned < 0)
        return (int)pinned;
    mc_movable_unpin(guest, handle);
    if (!take_unpinned(state, MOVING))
        return MC_ESTATE;
    frame = table->frames[handle];
    __atomic_store_n(&table->owners[frame], 0, __ATOMIC_RELEASE);
    pthread_mutex_lock(&table->lock);
    table->next_free[handle] = table->first_free;
    table->first_free = handle;
    pthread_mutex_unlock(&table->lock);
    __atomic_store_n(state, 0, __ATOMIC_RELEASE);
    return mc_frames_free(&guest->frames, slot, frame, 0);
}

static uint32_t load_word(const struct mc_guest *guest, uint32_t area)
{
    return __atomic_load_n(&guest->frames.areas[area], __ATOMIC_ACQUIRE);
}

static int swap_word(struct mc_guest *guest, uint32_t area, uint32_t seen, uint32_t word)
{
    return __atomic_compare_exchange_n(&guest->frames.areas[area], &seen, word, 0,
                                       __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

int mc_isolate(struct mc_guest *guest, uint32_t area)
{
    for (int tries = 0; tries < CLAIM_TRIES_MAX && area < guest->frames.area_count; tries++) {
        uint32_t seen = load_word(guest, area);

        if (seen & (MC_AREA_HUGE | MC_AREA_RECLAIMED | MC_AREA_ISOLATED))
            return MC_ESTATE;
        if (swap_word(guest, area, seen, seen | MC_AREA_ISOLATED))
            return MC_OK;
    }
    return MC_ESTATE;
}

/* Copy one movable frame to `to`; 1 when it was done. */
static int move(struct mc_guest *guest, struct mc_movables *table, uint32_t frame, uint32_t to)
{
    uint32_t owner = __atomic_load_n(&table->owners[frame], __ATOMIC_ACQUIRE);
    uint32_t handle = owner - 1;

    if (owner == 0 || !take_unpinned(&table->states[handle], MOVING))
        return 0;
    if (table->frames[handle] != frame) {       /* it was freed, and the handle used anew */
        __atomic_store_n(&table->states[handle], 1, __ATOMIC_RELEASE);
        return 0;
    }
    memcpy(guest->ram + (uint64_t)to * MC_FRAME_BYTES,
           guest->ram + (uint64_t)frame * MC_FRAME_BYTES, MC_FRAME_BYTES);
    table->frames[handle] = to;
    __atomic_store_n(&table->owners[frame], 0, __ATOMIC_RELEASE);
    __atomic_store_n(&table->owners[to], handle + 1, __ATOMIC_RELEASE);
    __atomic_store_n(&table->states[handle], 1, __ATOMIC_RELEASE);
    atomic_fetch_add_explicit(&guest->control->migrated_frames, 1, memory_order_relaxed);
    return 1;
}

/* Past the slot of whoever migrates, which would hand the frame out again. */
static void give_back(struct mc_guest *guest, uint32_t frame)
{
    __atomic_store_n(&guest->frames.heads[frame], MC_HEAD_FREED, __ATOMIC_RELAXED);
    mc_row_give(&guest->frames, frame / MC_ROW_FRAMES, 1ull << frame % MC_ROW_FRAMES);
}

static int move_all(struct mc_guest *guest, struct mc_movables *table, uint32_t area)
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
        if (!move(guest, table, frame, (uint32_t)spare))
            continue;
        spare = MC_ENOMEM;
        give_back(guest, frame);
    }
    if (spare >= 0)
        mc_frames_free(&guest->frames, table->slot, (uint64_t)spare, 0);
    mc_slot_drain(&guest->frames, table->slot);
    return status;
}

static int is_empty(const struct mc_guest *guest, uint32_t area)
{
    return (load_word(guest, area) & (MC_AREA_FREE_MASK | MC_AREA_HUGE)) == MC_AREA_FRAMES;
}

/* The Python side's slot may hold frames of this area: draining it takes the GIL. */
static int slot_is_in(const struct mc_guest *guest, uint32_t area)
{
    const struct mc_slot *slot = &guest->frames.slots[guest->slot];

    return atomic_load_explicit(&slot->row, memory_order_relaxed) / MC_AREA_ROWS == area;
}

int mc_migrate(struct mc_guest *guest, uint32_t area)
{
    struct mc_movables *table;
    int status;

    if (area >= guest->frames.area_count || !(load_word(guest, area) & MC_AREA_ISOLATED))
        return MC_ESTATE;
    if (is_empty(guest, area))
        return MC_OK;
    if (slot_is_in(guest, area))
        mc_guest_drain(guest);
    if (is_empty(guest, area))
        return MC_OK;
    table = table_of(guest);
    if (table == NULL)
        return MC_ENOMEM;
    if (table->slot < 0)
        table->slot = mc_slot_claim(&guest->frames, (uint32_t)syscall(SYS_gettid));
    if (table->slot < 0)
        return table->slot;
    status = move_all(guest, table, area);
    return is_empty(guest, area) ? MC_OK : status ? status : MC_ESTATE;
}

int mc_all_free(const struct mc_guest *guest, uint32_t first, uint32_t count)
{
    uint32_t ours = 0;

    for (uint32_t area = first; area < first + count; area++) {
        uint32_t word = load_word(guest, area);

        if (word & MC_AREA_RECLAIMED)
            continue;
        if ((word & (MC_AREA_FREE_MASK | MC_AREA_HUGE)) != MC_AREA_FRAMES)
            return 0;
        ours++;
    }
    return ours != 0;
}

/* The tree counts the area's frames until now. */
int mc_claim_area(struct mc_guest *guest, uint32_t area)
{
    _Atomic uint32_t *tree = &guest->frames.trees[area / MC_TREE_AREAS].free_frames;
    uint32_t free = atomic_load(tree), seen, taken = 0;

    for (int i = 0; i < CLAIM_TRIES_MAX && free >= MC_AREA_FRAMES && !taken; i++)
        taken = atomic_compare_exchange_weak(tree, &free, free - MC_AREA_FRAMES);
    if (!taken)
        return MC_ESTATE;
    seen = load_word(guest, area);
    for (int i = 0; i < CLAIM_TRIES_MAX && (seen & MC_AREA_ISOLATED) &&
                    (seen & (MC_AREA_FREE_MASK | MC_AREA_HUGE)) == MC_AREA_FRAMES; i++)
        if (mc_word_swap(&guest->frames, area, &seen,
                         (seen & ~(uint32_t)(MC_AREA_FREE_MASK | MC_AREA_ISOLATED)) |
                             MC_AREA_HUGE))
            return MC_OK;
    atomic_fetch_add(tree, MC_AREA_FRAMES);
    return MC_ESTATE;
}

void mc_online(struct mc_guest *guest, uint32_t area)
{
    uint32_t seen = load_word(guest, area);

    if (seen & MC_AREA_RECLAIMED)       /* the host took it */
        return;
    if (!(seen & MC_AREA_HUGE)) {
        __atomic_fetch_and(&guest->frames.areas[area], ~(uint32_t)MC_AREA_ISOLATED,
                           __ATOMIC_RELEASE);
        return;
    }
    __atomic_fetch_sub(&guest->frames.areas[area], MC_AREA_HUGE - MC_AREA_FRAMES,
                       __ATOMIC_RELEASE);
    atomic_fetch_add(&guest->frames.trees[area / MC_TREE_AREAS].free_frames, MC_AREA_FRAMES);
}

int mc_offline(struct mc_guest *guest, uint32_t area)
{
    int status = mc_isolate(guest, area);

    if (status != MC_OK)
        return status;
    status = mc_migrate(guest, area);
    if (status == MC_OK)
        status = mc_claim_area(guest, area);
    if (status != MC_OK)
        mc_online(guest, area);
    return status;
}
