/* driver.c: see driver.h. And what both threads of a guest do when its domain is closed. */
#include "driver.h"

#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
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
    .name = "direct", .id = MC_DIRECT, .populated = 1, .more = mc_ask_grow,
    .release = mc_ask_release,
};

int mc_thread_start(struct mc_guest *guest, pthread_t *thread, void *(*run)(void *))
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(thread, NULL, run, guest);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !failed;
}

void mc_thread_nap(struct mc_guest *guest, _Atomic uint32_t *word, _Atomic uint32_t *waiters,
                   uint32_t seen, uint64_t most_ns)
{
    uint64_t longest_ns = most_ns < MC_LIVENESS_NS ? most_ns : MC_LIVENESS_NS;
    struct timespec longest = {.tv_nsec = (long)longest_ns};
    atomic_fetch_add(waiters, 1);
    if (!mc_guest_is_stopping(guest))
        syscall(SYS_futex, word, FUTEX_WAIT, seen, &longest, NULL, 0);
    atomic_fetch_sub(waiters, 1);
}

void mc_thread_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void driver_tell_closed(const struct mc_guest *guest)
{
    char line[160];
    int length = snprintf(line, sizeof line,
                          "memcoord: domain %u was closed by the hypervisor; its memory is gone,"
                          " and touching that memory ends the process\n", guest->control->domid);
    if (length > 0 && write(STDERR_FILENO, line, (size_t)length) < 0)
        return;                 /* nobody reads it */
}

int mc_guest_shut(struct mc_guest *guest)
{
    struct mc_guest_private *own = guest->own;
    struct mc_control *control = guest->control;
    const struct timespec notice = {.tv_nsec = MC_NOTICE_NS / MC_NOTICE_LOOKS};
    if (atomic_load(&control->state) != MC_STATE_CLOSED ||
        atomic_load(&control->boots) != own->boots)
        return 0;
    for (int i = 0; i < MC_NOTICE_LOOKS && !mc_guest_is_stopping(guest); i++)
        nanosleep(&notice, NULL);
    pthread_mutex_lock(&own->claim_lock);
    /* A guest that is being closed has put other memory there, or unmaps it. */
    if (!own->kept_ram && !mc_guest_is_stopping(guest) && !own->shut) {
        own->shut = 1;
        driver_tell_closed(guest);
        mprotect(guest->ram, own->ram_bytes, PROT_NONE);
        atomic_store(&control->let_go, 1);
    }
    pthread_mutex_unlock(&own->claim_lock);
    return 1;
}

static uint32_t driver_kicks(const struct mc_guest *guest)
{
    return __atomic_load_n(&guest->own->kicks, __ATOMIC_ACQUIRE);
}

void mc_driver_kick(struct mc_guest *guest)
{
    __atomic_fetch_add(&guest->own->kicks, 1, __ATOMIC_RELEASE);
    mc_thread_wake(&guest->control->config_bell);
}

static void *driver_run(void *argument)
{
    struct mc_guest *guest = argument;
    struct mc_control *control = guest->control;
    while (!mc_guest_is_stopping(guest) && mc_guest_alive(guest)) {
        uint32_t seen = atomic_load(&control->config_bell), kicks = driver_kicks(guest);
        uint64_t now_ns, next_ns = UINT64_MAX;
        int status = guest->own->driver->step(guest, mc_clock_ns(), &next_ns);
        if (!mc_guest_alive(guest))     /* after a reboot the words belong to another guest */
            break;
        atomic_store(&control->driver_status, status);
        atomic_store(&control->config_seen, seen);
        mc_eventfd_ring(guest->bell_fd);        /* the hypervisor looks how far it is */
        while (!mc_guest_is_stopping(guest) && atomic_load(&control->config_bell) == seen &&
               driver_kicks(guest) == kicks && (now_ns = mc_clock_ns()) < next_ns &&
               mc_guest_alive(guest))
            mc_thread_nap(guest, &control->config_bell, &control->config_waiters, seen,
                          next_ns - now_ns);
    }
    while (!mc_guest_is_stopping(guest) && !mc_guest_shut(guest) &&
           atomic_load(&control->state) == MC_STATE_BROKEN)
        mc_thread_nap(guest, &control->config_bell, &control->config_waiters,
                      atomic_load(&control->config_bell), MC_LIVENESS_NS);
    return NULL;
}

int mc_driver_start(struct mc_guest *guest)
{
    if (!guest->own->driver->step)
        return MC_OK;
    guest->own->is_driven = mc_thread_start(guest, &guest->own->driving, driver_run);
    return guest->own->is_driven ? MC_OK : MC_EKERNEL;
}

void mc_driver_stop(struct mc_guest *guest)
{
    if (!guest->own->is_driven)
        return;
    mc_thread_wake(&guest->control->config_bell);
    pthread_join(guest->own->driving, NULL);
}
