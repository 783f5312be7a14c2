/* tmem.c: see tmem.h. The wait is that of frontend/abi/call.c: look, spin, announce, sleep. */
#include "tmem.h"

#include "bell.h"
#include "kernel.h"
#include "ops.h"
#include "say.h"

#include <string.h>
#include <sys/eventfd.h>

#define SPIN_NS 20000       /* about one wake-up of another CPU, MC_SPIN_MAX_NS */
#define SLEEP_NS 100000000  /* between two looks whether the hypervisor lives */
#define LOCK_LOOK_NS 20000000   /* between two looks at a lock that others have */

_Static_assert(MCP_RUN_PAGES == MC_RING_SLOTS, "a run is one filling of the ring");

static void ring_bell(struct mcp_member *member)
{
    uint64_t one = 1;
    mcp_syscall(SYS_write, member->bell_fd, (long)&one, 8, 0, 0, 0);
}

static int response_waits(const struct mc_front *front)
{
    return atomic_load_explicit(&front->ring->rsp_prod, memory_order_acquire) != front->rsp_cons;
}

static int spun(struct mcp_member *member, const struct mc_front *front)
{
    if (atomic_load(&member->control->hypervisor_cpu) == mc_cpu_now())
        return 0;
    uint64_t start_ns = mcp_now_ns();
    do {
        if (response_waits(front))
            return 1;
        mc_cpu_relax();
    } while (mcp_now_ns() - start_ns < SPIN_NS);
    return 0;
}

/* Until a response is there; the process ends when none comes. */
static void await(struct mcp_member *member, struct mc_front *front)
{
    struct mc_control *control = member->control;
    uint64_t deadline_ns = mcp_now_ns() + MCP_CALL_NS;
    for (;;) {
        uint32_t seen = atomic_load(&control->guest_bell);
        if (response_waits(front) || spun(member, front) || mc_front_arm(front))
            return;
        if (atomic_load(&control->state) != MC_STATE_OPEN || atomic_load(&member->family->is_gone))
            mcp_die("the hypervisor is gone, and pages of this program with it", 0);
        if (mcp_now_ns() > deadline_ns)
            mcp_die("tmem does not answer; seconds waited:", (long)(MCP_CALL_NS / 1000000000ull));
        mc_bell_wait((uint32_t *)&control->guest_bell, (uint32_t *)&control->guest_waiters, seen,
                     SLEEP_NS);
    }
}

static void pop(struct mcp_member *member, struct mc_front *front, struct mc_record *response)
{
    int got;
    while ((got = mc_front_pop(front, response)) == 0)
        await(member, front);
    if (got < 0)
        mcp_die("the tmem ring is broken:", got);
}

/* Whoever is woken for the lock and killed before it has it wakes nobody else, when a third has
 * taken it meanwhile without a wait: the lock is free then and all sleep. So they look again. */
static int lock_in_time(pthread_mutex_t *lock)
{
    uint64_t end_ns = mcp_now_ns() + MCP_CALL_NS;
    for (;;) {
        uint64_t look_ns = mcp_now_ns() + LOCK_LOOK_NS;
        struct timespec look = {.tv_sec = (time_t)(look_ns / 1000000000ull),
                                .tv_nsec = (long)(look_ns % 1000000000ull)};
        int status = pthread_mutex_clocklock(lock, CLOCK_MONOTONIC, &look);
        if (status != ETIMEDOUT || look_ns > end_ns)
            return status;
    }
}

void mcp_tmem_lock(struct mcp_member *member)
{
    struct mcp_family *family = member->family;
    int status = lock_in_time(&family->lock);
    family->front.ring = member->ring;
    if (status == EOWNERDEAD) {
        /* What a dead holder had pushed, and perhaps not published, is published and answered. */
        pthread_mutex_consistent(&family->lock);
        family->front.req_published = family->front.req_prod;
        atomic_store(&member->ring->req_prod, family->front.req_prod);
        ring_bell(member);
    } else if (status != 0)
        mcp_die("the domain's tmem is held by another of its processes:", status);
    struct mc_record stale;
    while (mc_front_outstanding(&family->front))
        pop(member, &family->front, &stale);
}

void mcp_tmem_release(struct mcp_member *member)
{
    pthread_mutex_unlock(&member->family->lock);
}

/* Under the lock: one record per slot, and their statuses. */
static void call(struct mcp_member *member, enum mc_op op, const uint32_t *slots, int count,
                 int64_t *statuses)
{
    struct mcp_family *family = member->family;
    struct mc_front *front = &family->front;
    uint64_t first_id = family->next_id;
    family->next_id += (uint64_t)count;
    for (int k = 0; k < count; k++) {
        struct mc_record record = {.op = (uint16_t)op, .id = first_id + (uint64_t)k};
        record.arg[0] = family->pool | (uint64_t)slots[k] << 32;
        record.arg[4] = op == MC_OP_FLUSH_PAGE ? 0 : family->staging_frame + (uint32_t)k;
        if (mc_front_push(front, &record) != MC_OK)
            mcp_die("the tmem ring is full", 0);
    }
    if (mc_front_publish(front))
        ring_bell(member);
    for (int k = 0; k < count; k++) {
        struct mc_record response;
        pop(member, front, &response);
        uint64_t place = response.id - first_id;
        if (place >= (uint64_t)count)
            mcp_die("tmem answered what nobody asked", 0);
        statuses[place] = response.status;
    }
}

uint64_t mcp_tmem_put(struct mcp_member *member, const uint32_t *slots,
                      const uint8_t *const *pages, int count)
{
    int64_t statuses[MCP_RUN_PAGES];
    uint64_t taken = 0;
    mcp_tmem_lock(member);
    for (int k = 0; k < count; k++)
        memcpy(member->staging + (uint64_t)k * MCP_PAGE_BYTES, pages[k], MCP_PAGE_BYTES);
    call(member, MC_OP_PUT, slots, count, statuses);
    mcp_tmem_release(member);
    for (int k = 0; k < count; k++) {
        if (statuses[k] < MC_TMEM_BAD)
            mcp_die("tmem refused the record of a put:", (long)statuses[k]);
        taken |= (uint64_t)(statuses[k] == 1) << k;
    }
    return taken;
}

void mcp_tmem_get(struct mcp_member *member, const uint32_t *slots, int count)
{
    int64_t statuses[MCP_RUN_PAGES];
    mcp_tmem_lock(member);
    call(member, MC_OP_GET, slots, count, statuses);
    for (int k = 0; k < count; k++)
        if (statuses[k] != 1)
            mcp_die("tmem has lost a page of this program:", (long)statuses[k]);
}

void mcp_tmem_flush(struct mcp_member *member, const uint32_t *slots, int count)
{
    int64_t statuses[MCP_RUN_PAGES];
    call(member, MC_OP_FLUSH_PAGE, slots, count, statuses);
    for (int k = 0; k < count; k++)
        if (statuses[k] < 0)
            mcp_die("tmem did not forget a page:", (long)statuses[k]);
}
