/* mapping.c: making areas usable: when an allocation needs one, or earlier, by the mapper thread.
 *
 * An area is mapped in bulk (MADV_POPULATE_READ: 0.3 us a page against 1.2 us for a fault each) at
 * most once per generation, and only while frames of it are claimed: see guest.h, mapper thread.
 */
#include "claims.h"
#include "driver.h"

/* What mapped[] and used[] note for an area: never 0, which stands for "not yet". */
static uint32_t word_generation(union mc_area_word word)
{
    return word.generation + 1;
}

/* The caller holds frames of the area, so neither backing nor generation can change. */
static int area_map(struct mc_guest *guest, uint32_t area, uint32_t generation)
{
    uint8_t *start = guest->ram + (uint64_t)area * MC_AREA_BYTES;
    if (mc_populate_read((uint64_t)(uintptr_t)start, MC_AREA_BYTES) != 0)
        return MC_EKERNEL;
    __atomic_store_n(&guest->mapped[area], generation, __ATOMIC_RELAXED);
    __atomic_fetch_add(&guest->mapped_areas, 1, __ATOMIC_RELAXED);
    return MC_OK;
}

/* An area that was granted is used for the first time. The bell is a system call, and wakes the
 * hypervisor: it is rung once for every half of the credit, so that the other half is left while
 * more comes. */
static void area_note_use(struct mc_guest *guest)
{
    uint64_t every = guest->control->credit_areas / 2;
    uint64_t taken = atomic_fetch_add_explicit(&guest->control->credit_taken, 1,
                                               memory_order_relaxed) + 1;
    if (every < 2 || taken % every == 0)
        mc_eventfd_ring(guest->bell_fd);
}

static int area_install(struct mc_guest *guest, uint32_t area)
{
    struct mc_record record = {.op = MC_OP_INSTALL, .arg = {area}};
    /* One allocation tries several areas. After one request without an answer it asks no more. */
    if (__atomic_load_n(&guest->own->silent, __ATOMIC_RELAXED))
        return MC_ETIMEOUT;
    int status = mc_guest_call(guest, MC_RING_MEMORY, &record, 1);
    if (status == MC_ETIMEOUT)
        __atomic_store_n(&guest->own->silent, 1, __ATOMIC_RELAXED);
    return status == MC_OK && record.status < 0 ? (int)record.status : status;
}

/* mc_prepare_fn: called with frames of the area claimed, and no ring lock held. */
int mc_prepare(void *context, uint32_t area, uint32_t seen)
{
    struct mc_guest *guest = context;
    union mc_area_word word = mc_word(&guest->frames, area);
    int status, worked = 0;
    (void)seen;     /* another thread may have had the area installed since */
    if (word.evicted) {
        status = area_install(guest, area);
        if (status != MC_OK)
            return status;
        word = mc_word(&guest->frames, area);
        worked = 1;
    }
    uint32_t generation = word_generation(word);
    if (guest->own->is_mapped_ahead &&
        __atomic_load_n(&guest->mapped[area], __ATOMIC_RELAXED) != generation) {
        status = area_map(guest, area, generation);
        if (status != MC_OK)
            return status;
        worked = 1;
    }
    if (__atomic_load_n(&guest->own->used[area], __ATOMIC_RELAXED) != generation &&
        __atomic_exchange_n(&guest->own->used[area], generation, __ATOMIC_RELAXED) != generation)
        area_note_use(guest);
    return worked;
}

/* Map an area that is free. Meanwhile it is claimed as by an order-9 allocation, without a head. */
static void area_map_if_free(struct mc_guest *guest, uint32_t area)
{
    union mc_area_word word = mc_word(&guest->frames, area);
    uint32_t generation = word_generation(word);
    if (!mc_word_is_whole(word) || word.evicted ||
        __atomic_load_n(&guest->mapped[area], __ATOMIC_RELAXED) == generation)
        return;
    pthread_mutex_lock(&guest->own->claim_lock);
    __atomic_fetch_add(&guest->own->claims, 1, __ATOMIC_SEQ_CST);
    if (mc_tree_take(&guest->frames, area, MC_AREA_FRAMES, MC_AREA_FRAMES)) {
        if (mc_word_swap(&guest->frames, area, &word, mc_word_claimed(word))) {
            area_map(guest, area, generation);
            mc_word_unclaim(&guest->frames, area);
        }
        mc_tree_give(&guest->frames, area, MC_AREA_FRAMES);
    }
    __atomic_fetch_add(&guest->own->claims, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&guest->own->claim_lock);
}

static void *mapper_run(void *argument)
{
    struct mc_guest *guest = argument;
    struct mc_control *control = guest->control;
    while (!mc_guest_is_stopping(guest) && !mc_guest_shut(guest)) {
        uint32_t seen = atomic_load(&control->credit_bell);
        for (uint32_t area = 0; area < guest->frames.area_count; area++)
            if (!mc_guest_is_stopping(guest))
                area_map_if_free(guest, area);
        if (atomic_load(&control->credit_bell) == seen)
            mc_thread_nap(guest, &control->credit_bell, &control->credit_waiters, seen, UINT64_MAX);
    }
    return NULL;
}

int mc_mapper_start(struct mc_guest *guest)
{
    guest->own->mapping = mc_thread_start(guest, &guest->own->mapper, mapper_run);
    return guest->own->mapping ? MC_OK : MC_EKERNEL;
}

/* own->stop is set. */
void mc_mapper_stop(struct mc_guest *guest)
{
    if (!guest->own->mapping)
        return;
    mc_thread_wake(&guest->control->credit_bell);
    pthread_join(guest->own->mapper, NULL);
}
