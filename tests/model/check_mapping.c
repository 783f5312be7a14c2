/* check_mapping.c: the guest's mapping.c, unchanged: its mapper thread and its mc_prepare, beside
 * an allocating thread and a host that reclaims.
 *
 * check-mapping MODEL EXECUTIONS_MAX [MORE]; ends at the first failure with 1. MORE is added to the
 * preemptions that an execution may have. Beside frames_world.h it checks that nobody maps an area
 * without backing, for which the kernel would hand out memory that nobody granted, and that no
 * frame is handed out before its area is mapped.
 */
#include "mapping.c"

#include "frames_world.h"

static uint32_t mapped[WORLD_AREAS], used[WORLD_AREAS];
static struct mc_control control;
static const struct mc_driver driver = {.populated = 1};
static struct mc_guest_private own = {.used = used, .driver = &driver, .is_mapped_ahead = 1};
static struct mc_guest guest = {.mapped = mapped, .control = &control, .own = &own};

/* ---- what mapping.c calls: the kernel, the ring, threads ---- */

int mc_populate_read(uint64_t address, uint64_t bytes)
{
    uint64_t area = address / MC_AREA_BYTES;
    (void)bytes;
    mck_assert(world_backed[area], "an area without backing was mapped");
    world_mapped[area] = 1;
    return 0;
}

int mc_guest_call(struct mc_guest *caller, int ring, struct mc_record *record, uint32_t count)
{
    (void)caller, (void)ring, (void)count;
    record->status = world_install((uint32_t)record->arg[0]);
    return MC_OK;
}

int mc_eventfd_ring(int fd)
{
    (void)fd;
    return MC_OK;
}

int mc_thread_start(struct mc_guest *caller, pthread_t *thread, void *(*run)(void *))
{
    (void)caller, (void)thread, (void)run;
    return 0;
}

int mc_guest_shut(struct mc_guest *caller)
{
    (void)caller;               /* nobody closes the domain here */
    return 0;
}

void mc_thread_wake(_Atomic uint32_t *bell)
{
    (void)bell;
}

void mc_thread_nap(struct mc_guest *caller, _Atomic uint32_t *bell, _Atomic uint32_t *waiters,
                   uint32_t seen, uint64_t timeout_ns)
{
    (void)caller, (void)bell, (void)waiters, (void)seen, (void)timeout_ns;
}

/* One round of mapper_run. */
static void mapper(void *argument)
{
    (void)argument;
    for (uint32_t area = 0; area < WORLD_AREAS; area++)
        area_map_if_free(&guest, area);
}

static void forget(void)
{
    memset(mapped, 0, sizeof mapped);
    memset(used, 0, sizeof used);
    own.silent = 0;
}

int main(int argc, char **argv)
{
    uint64_t executions_max = mck_arguments(argc, argv);
    world_must_be_mapped = 1;
    world_make(mc_prepare, &guest, forget);
    guest.frames = world_frames;
    return !world_explore(1, mapper, 2, executions_max);
}
