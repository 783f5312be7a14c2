/* driver.c: see driver.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "driver.h"

#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const struct mc_driver *const drivers[MC_MECHANISMS] = {
    [MC_DIRECT] = &mc_drv_direct, [MC_BALLOON] = &mc_drv_balloon,
    [MC_VIRTIO_MEM] = &mc_drv_virtio_mem, [MC_SECTIONS] = &mc_drv_sections,
    [MC_CMM] = &mc_drv_cmm, [MC_HYPERALLOC] = &mc_drv_hyperalloc,
};

const struct mc_driver *mc_driver(uint32_t id)
{
    return id < MC_MECHANISMS ? drivers[id] : NULL;
}

int64_t mc_ask(struct mc_guest *guest, struct mc_record *record)
{
    int status = mc_guest_call(guest, MC_RING_MEMORY, record, 1);

    return status != MC_OK ? status : record->status;
}

int64_t mc_ask_grow(struct mc_guest *guest, uint32_t areas, int *path)
{
    struct mc_record record = {.op = MC_OP_GROW, .arg = {areas}};
    int64_t granted = mc_ask(guest, &record);

    *path = (int)(record.arg[0] & 3);
    return granted ? granted : MC_ENOMEM;
}

int64_t mc_ask_release(struct mc_guest *guest, uint32_t areas)
{
    struct mc_record record = {.op = MC_OP_RELEASE, .arg = {areas}};

    return mc_ask(guest, &record);
}

const struct mc_driver mc_drv_direct = {
    .name = "direct",
    .id = MC_DIRECT,
    .populated = 1,
    .more = mc_ask_grow,
    .release = mc_ask_release,
};

static int driver_is_stopping(const struct mc_guest *guest)
{
    return __atomic_load_n(&guest->own->stop, __ATOMIC_ACQUIRE);
}

static uint32_t driver_kicks(const struct mc_guest *guest)
{
    return __atomic_load_n(&guest->own->kicks, __ATOMIC_ACQUIRE);
}

/* Only the hypervisor writes the word, so a kick and the end of the guest wake the thread without
 * changing it. A wake-up between the look and the sleep is lost; the thread then looks again after
 * MC_LIVENESS_NS. */
static void driver_wake(struct mc_guest *guest)
{
    syscall(SYS_futex, &guest->control->config_bell, FUTEX_WAKE, 1, NULL, NULL, 0);
}

void mc_driver_kick(struct mc_guest *guest)
{
    __atomic_fetch_add(&guest->own->kicks, 1, __ATOMIC_RELEASE);
    driver_wake(guest);
}

static void driver_nap(struct mc_guest *guest, uint32_t seen, uint64_t until_ns)
{
    uint64_t now_ns = mc_clock_ns(), left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec longest = {.tv_nsec = (long)(left_ns < MC_LIVENESS_NS ? left_ns
                                                                          : MC_LIVENESS_NS)};

    atomic_fetch_add(&guest->control->config_waiters, 1);
    if (!driver_is_stopping(guest) && left_ns)
        syscall(SYS_futex, &guest->control->config_bell, FUTEX_WAIT, seen, &longest, NULL, 0);
    atomic_fetch_sub(&guest->control->config_waiters, 1);
}

static void *driver_run(void *argument)
{
    struct mc_guest *guest = argument;
    struct mc_control *control = guest->control;

    while (!driver_is_stopping(guest) && mc_guest_alive(guest)) {
        uint32_t seen = atomic_load(&control->config_bell), kicks = driver_kicks(guest);
        uint64_t next_ns = UINT64_MAX;
        int status = guest->own->driver->step(guest, mc_clock_ns(), &next_ns);

        if (!mc_guest_alive(guest))     /* after a reboot the words belong to another guest */
            break;
        atomic_store(&control->driver_status, status);
        atomic_store(&control->config_seen, seen);
        mc_eventfd_ring(guest->bell_fd);        /* the hypervisor looks how far it is */
        while (!driver_is_stopping(guest) && atomic_load(&control->config_bell) == seen &&
               driver_kicks(guest) == kicks && mc_clock_ns() < next_ns && mc_guest_alive(guest))
            driver_nap(guest, seen, next_ns);
    }
    return NULL;
}

int mc_driver_start(struct mc_guest *guest)
{
    sigset_t all, before;
    int failed;

    if (!guest->own->driver->step)
        return MC_OK;
    sigfillset(&all);               /* signals belong to the program's own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&guest->own->driving, NULL, driver_run, guest);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    guest->own->is_driven = !failed;
    return failed ? MC_EKERNEL : MC_OK;
}

void mc_driver_stop(struct mc_guest *guest)
{
    if (!guest->own->is_driven)
        return;
    driver_wake(guest);
    pthread_join(guest->own->driving, NULL);
}
