/* guest.c: see guest.h. Opening and closing a domain, and allocation that asks for more. */
#include "claims.h"
#include "driver.h"
#include "handles.h"
#include "latency.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CLAIM_WAIT_NS 1000000000ull
#define MC_NOINLINE __attribute__((noinline))

/* How often one allocation has asked and waited. */
struct guest_patience {
    int grows;
    int waits;
    int64_t refused;            /* status of a GROW, after which it is tried once more */
};

static int64_t guest_grow(struct mc_guest *guest, uint32_t areas, int *path)
{
    const struct mc_driver *driver = guest->own->driver;
    uint64_t begin_ns = mc_clock_ns();
    int64_t gained = driver->more ? driver->more(guest, areas, path) : MC_ENOMEM;
    if (gained <= 0)
        return gained;
    __atomic_fetch_add(&guest->grown_areas[*path], (uint64_t)gained, __ATOMIC_RELAXED);
    mc_latency_note(guest->control->waits, (uint64_t)*path, mc_clock_ns() - begin_ns);
    return gained;
}

static uint64_t guest_claims(const struct mc_guest *guest)
{
    return __atomic_load_n(&guest->own->claims, __ATOMIC_SEQ_CST);
}

/* After an allocation that found nothing: 0 when it is worth trying again, else the status why not.
 * `claims` was read before that allocation; it is odd while the mapper thread holds an area. Then
 * the allocation may have failed because of that area, and waiting for the mapper is enough. */
static int64_t guest_make_room(struct mc_guest *guest, uint64_t claims, uint32_t areas,
                               struct guest_patience *spent)
{
    int64_t granted;
    int path;
    if (((claims & 1) || guest_claims(guest) != claims) && spent->waits < MC_GROW_TRIES_MAX) {
        spent->waits++;
        if (mc_lock_within(&guest->own->claim_lock, CLAIM_WAIT_NS) == MC_OK)
            pthread_mutex_unlock(&guest->own->claim_lock);
        return MC_OK;
    }
    if (__atomic_load_n(&guest->own->silent, __ATOMIC_RELAXED))
        return MC_ETIMEOUT;
    if (spent->refused)
        return spent->refused;
    if (spent->grows++ == MC_GROW_TRIES_MAX)
        return MC_ENOMEM;
    atomic_fetch_add_explicit(&guest->control->credit_dry, 1, memory_order_relaxed);
    granted = guest_grow(guest, areas < MC_GROW_AREAS_MAX ? areas : MC_GROW_AREAS_MAX, &path);
    /* The hypervisor may refuse because it has just given the last area as credit: look again. */
    spent->refused = granted < 0 ? granted : MC_OK;
    return MC_OK;
}

static void guest_begin_allocation(struct mc_guest *guest)
{
    __atomic_store_n(&guest->own->silent, 0, __ATOMIC_RELAXED);
}

static MC_NOINLINE int64_t guest_alloc_asking(struct mc_guest *guest, int slot, int order)
{
    struct guest_patience spent = {0};
    int64_t frame, status;
    guest_begin_allocation(guest);
    do {
        uint64_t claims = guest_claims(guest);
        frame = mc_frames_alloc(&guest->frames, slot, order);
        if (frame != MC_ENOMEM)
            return frame;
        status = guest_make_room(guest, claims, 1, &spent);
    } while (status == MC_OK);
    return status;
}

int64_t mc_guest_alloc(struct mc_guest *guest, int slot, int order)
{
    int64_t frame = mc_slot_pop(&guest->frames, slot, order);
    return __builtin_expect(frame >= 0, 1) ? frame : guest_alloc_asking(guest, slot, order);
}

int64_t mc_guest_alloc_many(struct mc_guest *guest, int slot, uint32_t *out, uint64_t count)
{
    struct guest_patience spent = {0};
    uint64_t given = 0;
    int64_t status;
    guest_begin_allocation(guest);
    int64_t more = mc_frames_alloc_many(&guest->frames, slot, out, count);
    if (more < 0 || (uint64_t)more == count)
        return more;
    given = (uint64_t)more;
    for (;;) {          /* every round gains a frame or uses up some patience */
        uint64_t claims = guest_claims(guest);
        more = mc_frames_alloc_many(&guest->frames, slot, out + given, count - given);
        if (more < 0 && more != MC_ENOMEM)
            return given > 0 ? (int64_t)given : more;
        if (more > 0) {
            given += (uint64_t)more;
            spent = (struct guest_patience){0};
        }
        if (given == count)
            return (int64_t)given;
        more = (int64_t)((count - given + MC_AREA_FRAMES - 1) / MC_AREA_FRAMES);
        status = guest_make_room(guest, claims, more < MC_GROW_AREAS_MAX ? (uint32_t)more
                                                                  : MC_GROW_AREAS_MAX, &spent);
        if (status != MC_OK)
            return given > 0 ? (int64_t)given : status;
    }
}

int64_t mc_guest_alloc_areas(struct mc_guest *guest, int slot, uint32_t count)
{
    struct guest_patience spent = {0};
    int64_t frame, status;
    guest_begin_allocation(guest);
    do {
        uint64_t claims = guest_claims(guest);
        frame = mc_frames_alloc_areas(&guest->frames, slot, count);
        if (frame != MC_ENOMEM)
            return frame;
        /* First ask for all areas of the run, later for one at a time that may close a gap. */
        status = guest_make_room(guest, claims, spent.grows == 0 ? count : 1, &spent);
    } while (status == MC_OK);
    return status;
}

int64_t mc_guest_request(struct mc_guest *guest, uint64_t frames, int *path)
{
    uint64_t wanted = frames / MC_AREA_FRAMES + (frames % MC_AREA_FRAMES != 0), gained = 0;
    if (wanted > guest->frames.area_count)
        wanted = guest->frames.area_count;
    while (gained < wanted) {       /* each round gains at least one area */
        uint64_t missing = wanted - gained;
        int64_t areas = guest_grow(guest, missing < MC_GROW_AREAS_MAX ? (uint32_t)missing
                                                                : MC_GROW_AREAS_MAX, path);
        if (areas < 0)
            return gained > 0 ? (int64_t)(gained * MC_AREA_FRAMES) : areas;
        gained += (uint64_t)areas;
    }
    return (int64_t)(gained * MC_AREA_FRAMES);
}

int64_t mc_guest_release(struct mc_guest *guest, uint64_t frames)
{
    uint64_t offered = frames / MC_AREA_FRAMES, given = 0;
    int status = mc_slot_drain(&guest->frames, guest->slot);
    if (offered > guest->frames.area_count)
        offered = guest->frames.area_count;
    while (status >= 0 && given < offered && guest->own->driver->release) {
        uint64_t left = offered - given;        /* each round gives at least one area */
        int64_t taken = guest->own->driver->release(
            guest, left < MC_GROW_AREAS_MAX ? (uint32_t)left : MC_GROW_AREAS_MAX);
        status = taken < 0 ? (int)taken : status;
        if (taken <= 0)
            break;
        given += (uint64_t)taken;
    }
    return status < 0 && given == 0 ? status : (int64_t)(given * MC_AREA_FRAMES);
}

static int fd_holds(int fd, uint64_t bytes)
{
    struct stat status;
    return fstat(fd, &status) == 0 && (uint64_t)status.st_size == bytes;
}

static int guest_map(struct mc_guest *guest, int ram_fd, int meta_fd)
{
    struct mc_guest_private *own = guest->own;
    if (!fd_holds(ram_fd, own->ram_bytes) || !fd_holds(meta_fd, own->meta_bytes) ||
        own->meta_bytes < sizeof(struct mc_control))
        return MC_ELAYOUT;
    int64_t address = mc_map(meta_fd, own->meta_bytes);
    if (address < 0)
        return MC_EKERNEL;
    guest->control = (struct mc_control *)(uintptr_t)address;
    if (mc_meta_check(guest->control, own->meta_bytes, own->ram_bytes) != MC_OK)
        return MC_ELAYOUT;
    address = mc_map(ram_fd, own->ram_bytes);
    if (address < 0)
        return MC_EKERNEL;
    guest->ram = (uint8_t *)(uintptr_t)address;
    if (mc_advise_backing((uint64_t)address, own->ram_bytes, (int)guest->control->backing) != 0)
        return MC_EKERNEL;
    return mc_frames_bind(&guest->frames, guest->control);
}

static int guest_start_threads(struct mc_guest *guest)
{
    const struct mc_driver *driver = guest->own->driver;
    int status = driver->open ? driver->open(guest) : MC_OK;
    if (status == MC_OK && guest->own->is_mapped_ahead)
        status = mc_mapper_start(guest);
    return status == MC_OK ? mc_driver_start(guest) : status;
}

static int guest_bind(struct mc_guest *guest)
{
    uint8_t *meta = (uint8_t *)guest->control;
    guest->own->boots = atomic_load(&guest->control->boots);
    guest->own->driver = mc_driver(guest->control->mechanism);
    if (guest->own->driver == NULL)
        return MC_ELAYOUT;
    guest->own->is_mapped_ahead = guest->own->driver->populated && !guest->control->booked_only;
    guest->mapped = calloc(guest->frames.area_count, sizeof *guest->mapped);
    guest->own->used = calloc(guest->frames.area_count, sizeof *guest->own->used);
    if (guest->mapped == NULL || guest->own->used == NULL)
        return MC_ENOMEM;
    guest->frames.prepare = mc_prepare;
    guest->frames.prepare_context = guest;
    guest->frames.ram = guest->ram;
    mc_front_bind(&guest->rings[MC_RING_MEMORY],
                  (struct mc_ring *)(meta + guest->control->memory_ring_offset));
    mc_front_bind(&guest->rings[MC_RING_TMEM],
                  (struct mc_ring *)(meta + guest->control->tmem_ring_offset));
    atomic_store(&guest->control->frontend_pid, (uint32_t)getpid());
    atomic_store(&guest->control->frontend_cpu, mc_cpu_now());
    guest->slot = mc_slot_claim(&guest->frames, (uint32_t)syscall(SYS_gettid));
    return guest->slot < 0 ? guest->slot : guest_start_threads(guest);
}

int mc_guest_open(struct mc_guest **out, int ram_fd, int meta_fd, int bell_fd, int attach_fd,
                  uint64_t ram_bytes, uint64_t meta_bytes, uint64_t spin_ns)
{
    struct mc_guest *guest = calloc(1, sizeof *guest);
    *out = NULL;
    if (guest == NULL || (guest->own = calloc(1, sizeof *guest->own)) == NULL) {
        free(guest);
        return MC_ENOMEM;
    }
    pthread_mutex_init(&guest->own->ring_locks[MC_RING_MEMORY], NULL);
    pthread_mutex_init(&guest->own->ring_locks[MC_RING_TMEM], NULL);
    pthread_mutex_init(&guest->own->claim_lock, NULL);
    pthread_mutex_init(&guest->own->drop_lock, NULL);
    guest->slot = -1;
    guest->bell_fd = bell_fd;
    guest->attach_fd = attach_fd;
    guest->timeout_ns = MC_CALL_TIMEOUT_NS;
    guest->own->ram_bytes = ram_bytes;
    guest->own->meta_bytes = meta_bytes;
    guest->spin_ns = spin_ns < MC_SPIN_MAX_NS ? spin_ns : MC_SPIN_MAX_NS;
    int status = guest_map(guest, ram_fd, meta_fd);
    if (status == MC_OK)
        status = guest_bind(guest);
    if (status != MC_OK) {
        mc_guest_close(guest);
        return status;
    }
    *out = guest;
    return MC_OK;
}

void mc_guest_set_drop(struct mc_guest *guest, mc_drop_fn drop, void *context)
{
    pthread_mutex_lock(&guest->own->drop_lock);
    guest->own->drop = drop;
    guest->own->drop_context = context;
    pthread_mutex_unlock(&guest->own->drop_lock);
}

uint64_t mc_guest_drop_cache(struct mc_guest *guest, uint64_t frames)
{
    uint64_t dropped = 0;
    pthread_mutex_lock(&guest->own->drop_lock);
    if (guest->own->drop != NULL)
        dropped = guest->own->drop(guest->own->drop_context, frames);
    pthread_mutex_unlock(&guest->own->drop_lock);
    return dropped;
}

void mc_guest_drain(struct mc_guest *guest)
{
    void (*drain)(void *) = __atomic_load_n(&guest->own->drain, __ATOMIC_ACQUIRE);
    if (drain != NULL)
        drain(guest->own->drain_context);
}

int mc_guest_keep_ram(struct mc_guest *guest)
{
    void *kept;
    pthread_mutex_lock(&guest->own->claim_lock);
    kept = mmap(guest->ram, guest->own->ram_bytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    guest->own->kept_ram = kept != MAP_FAILED;
    pthread_mutex_unlock(&guest->own->claim_lock);
    return kept == MAP_FAILED ? MC_EKERNEL : MC_OK;
}

void mc_guest_close(struct mc_guest *guest)
{
    struct mc_guest_private *own = guest->own;
    __atomic_store_n(&own->stop, 1, __ATOMIC_SEQ_CST);
    mc_driver_stop(guest);
    mc_mapper_stop(guest);
    if (own->driver != NULL && own->driver->close != NULL)
        own->driver->close(guest);
    if (guest->frames.slots != NULL)
        mc_handles_close(guest);
    if (guest->slot >= 0)
        mc_slot_release(&guest->frames, guest->slot);
    if (guest->ram != NULL && !own->kept_ram)
        mc_unmap((uint64_t)(uintptr_t)guest->ram, own->ram_bytes);
    if (guest->control != NULL) {
        if (atomic_load(&guest->control->boots) == own->boots)
            atomic_store(&guest->control->let_go, 1);
        mc_unmap((uint64_t)(uintptr_t)guest->control, own->meta_bytes);
    }
    pthread_mutex_destroy(&own->ring_locks[MC_RING_MEMORY]);
    pthread_mutex_destroy(&own->ring_locks[MC_RING_TMEM]);
    pthread_mutex_destroy(&own->claim_lock);
    pthread_mutex_destroy(&own->drop_lock);
    free(own->used);
    free(guest->mapped);
    free(own);
    free(guest);
}
