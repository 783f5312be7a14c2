/* call.c: requests over a ring and the wait for their answers; never longer than its timeout.
 *
 * Answers are matched by id. An answer to an earlier request whose call gave up is dropped; at most
 * MC_RING_SLOTS of those can be under way.
 */
#include "guest_private.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

#define NS_PER_S 1000000000ull
#define RECORD_NS 1000  /* time to serve a record that copies a page from outside the CPU's cache */

/* One mc_guest_call under way; the ring's lock is held. */
struct call {
    struct mc_guest *guest;
    struct mc_front *front;
    struct mc_record *records;
    uint32_t count;
    uint32_t sent;
    uint64_t first_id;
    uint64_t unanswered;    /* one bit per record */
};

_Static_assert(MC_RING_SLOTS == 64, "one bit per record of a call");

int mc_lock_within(pthread_mutex_t *lock, uint64_t timeout_ns)
{
    uint64_t end_ns = mc_clock_ns() + timeout_ns;
    struct timespec end = {.tv_sec = (time_t)(end_ns / NS_PER_S),
                           .tv_nsec = (long)(end_ns % NS_PER_S)};
    return pthread_mutex_clocklock(lock, CLOCK_MONOTONIC, &end) == 0 ? MC_OK : MC_ETIMEOUT;
}

static int call_peer_hung_up(int fd)
{
    struct pollfd peer = {.fd = fd, .events = POLLRDHUP};
    return poll(&peer, 1, 0) > 0 &&
           (peer.revents & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL)) != 0;
}

int mc_guest_alive(struct mc_guest *guest)
{
    if (__atomic_load_n(&guest->own->gone, __ATOMIC_RELAXED))
        return 0;
    if (atomic_load(&guest->control->state) == MC_STATE_OPEN &&
        atomic_load(&guest->control->boots) == guest->own->boots &&
        !call_peer_hung_up(guest->attach_fd))
        return 1;
    __atomic_store_n(&guest->own->gone, 1, __ATOMIC_RELAXED);
    return 0;
}

/* Push as many requests as fit beside those that earlier calls gave up, and ring once. */
static void call_send(struct call *call)
{
    uint32_t before = call->sent;
    while (call->sent < call->count &&
           mc_front_push(call->front, &call->records[call->sent]) == MC_OK)
        call->sent++;
    if (call->sent == before)
        return;
    __atomic_fetch_add(&call->guest->calls, call->sent - before, __ATOMIC_RELAXED);
    if (mc_front_publish(call->front))
        mc_eventfd_ring(call->guest->bell_fd);
}

/* Take every response there is. Returns how many there were, MC_ERUNAWAY or MC_ETORN. */
static int call_collect(struct call *call)
{
    struct mc_record response;
    int taken, got;
    for (taken = 0; taken < MC_RING_SLOTS; taken++) {
        got = mc_front_pop(call->front, &response);
        if (got <= 0)
            return got < 0 ? got : taken;
        uint64_t index = response.id - call->first_id;
        if (index >= call->sent || !(call->unanswered >> index & 1))
            continue;
        call->records[index] = response;
        call->unanswered &= ~(1ull << index);
    }
    return taken;
}

static int call_response_waits(const struct call *call)
{
    return atomic_load_explicit(&call->front->ring->rsp_prod, memory_order_acquire) !=
           call->front->rsp_cons;
}

/* Look for a response for as long as a wake-up would take, in addition to the time for serving the
 * requests under way: the responses of a batch come together, after its last record. 1 when one
 * came in that time. */
static int call_spin(const struct call *call, uint32_t cpu)
{
    const struct mc_control *control = call->guest->control;
    uint64_t start_ns, limit_ns = call->guest->spin_ns;
    if (limit_ns == 0 || atomic_load(&control->hypervisor_cpu) == cpu)
        return 0;
    limit_ns += (uint64_t)(__builtin_popcountll(call->unanswered) - 1) * RECORD_NS;
    start_ns = mc_clock_ns();
    do {
        if (call_response_waits(call))
            return 1;
        mc_cpu_relax();
    } while (mc_clock_ns() - start_ns < limit_ns);
    return 0;
}

/* `seen` is the bell before the last look. 0: look again; MC_EGONE or MC_ETIMEOUT. */
static int call_await(struct call *call, uint32_t seen, uint64_t deadline_ns)
{
    struct mc_control *control = call->guest->control;
    uint32_t cpu = mc_cpu_now();
    if (atomic_load_explicit(&control->frontend_cpu, memory_order_relaxed) != cpu)
        atomic_store_explicit(&control->frontend_cpu, cpu, memory_order_relaxed);
    if (call_spin(call, cpu) || mc_front_arm(call->front))
        return MC_OK;
    if (!mc_guest_alive(call->guest))
        return MC_EGONE;
    uint64_t now_ns = mc_clock_ns();
    if (now_ns >= deadline_ns)
        return MC_ETIMEOUT;
    uint64_t left_ns = deadline_ns - now_ns;
    __atomic_fetch_add(&call->guest->sleeps, 1, __ATOMIC_RELAXED);
    mc_bell_wait((uint32_t *)&control->guest_bell, (uint32_t *)&control->guest_waiters, seen,
                 left_ns < MC_LIVENESS_NS ? left_ns : MC_LIVENESS_NS);
    return MC_OK;
}

static int call_run(struct call *call)
{
    uint64_t deadline_ns = mc_clock_ns() + call->guest->timeout_ns;
    for (;;) {          /* every round answers a request, drops a stale answer, or awaits */
        uint32_t seen = atomic_load(&call->guest->control->guest_bell);
        call_send(call);
        int taken = call_collect(call);
        if (taken < 0)
            return taken;
        if (call->unanswered == 0)
            return MC_OK;
        if (taken > 0)
            continue;
        int status = call_await(call, seen, deadline_ns);
        if (status != MC_OK)
            return status;
    }
}

int mc_guest_call(struct mc_guest *guest, int ring, struct mc_record *records, uint32_t count)
{
    struct mc_guest_private *own = guest->own;
    struct call call = {.guest = guest, .records = records, .count = count};
    if (ring < 0 || ring >= MC_RINGS || count == 0 || count > MC_RING_SLOTS)
        return MC_EINDEX;
    if (__atomic_load_n(&own->gone, __ATOMIC_RELAXED))
        return MC_EGONE;
    if (mc_lock_within(&own->ring_locks[ring], guest->timeout_ns) != MC_OK)
        return MC_ETIMEOUT;
    int status = own->broken[ring];
    /* After a reboot the ring is another guest's: not even one record may be pushed. */
    if (status == MC_OK && atomic_load(&guest->control->boots) != own->boots)
        status = MC_EGONE;
    if (status == MC_OK) {
        call.front = &guest->rings[ring];
        call.unanswered = ~0ull >> (MC_RING_SLOTS - count);
        call.first_id = own->next_ids[ring];
        own->next_ids[ring] += count;
        for (uint32_t i = 0; i < count; i++)
            records[i].id = call.first_id + i;
        status = call_run(&call);
        if (status == MC_ERUNAWAY || status == MC_ETORN)
            own->broken[ring] = status;
    }
    pthread_mutex_unlock(&own->ring_locks[ring]);
    return status;
}
