/* ring_loops.c: both ends of a ring as compiled loops, for tests between two processes.
 *
 * Every sleep has `liveness_ns` as its bound: a lost wake-up is MC_ETIMEOUT, never a hang.
 */
#include "bell.h"
#include "latency.h"
#include "ring.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sched.h>

/* cdef-begin */
enum loop_mode { LOOP_SPIN = 0, LOOP_FUTEX = 1, LOOP_EVENTFD = 2 };
enum loop_fault { LOOP_REORDERED = -100, LOOP_CHANGED = -101 };

struct loop {
    struct mc_ring *ring;
    uint32_t *hear_word, *hear_waiters;     /* LOOP_FUTEX */
    uint32_t *ring_word, *ring_waiters;
    int hear_fd, ring_fd;                   /* LOOP_EVENTFD */
    int mode;
    uint32_t batch_max;                     /* records per publish: 1..batch_max, drawn */
    uint32_t pause_max;                     /* relaxations between steps: 0..pause_max, drawn */
    uint64_t count;                         /* records in all */
    uint64_t seed;
    uint64_t liveness_ns;
    uint64_t sleeps;                        /* out: times this end slept */
    uint64_t bells;                         /* out: times this end rang */
};

int loop_front(struct loop *loop);
int loop_back(struct loop *loop);
/* latency.h, for a caller that is no C. */
uint32_t latency_bucket(uint64_t ns);
void latency_note(uint32_t *counts, uint64_t path, uint64_t ns);
/* cdef-end */

uint32_t latency_bucket(uint64_t ns)
{
    return mc_latency_bucket(ns);
}

void latency_note(uint32_t *counts, uint64_t path, uint64_t ns)
{
    mc_latency_note(counts, path, ns);
}

#define ANSWER(id) ((int64_t)((id) * 7 + 1))

static uint32_t draw(struct loop *loop, uint32_t below)
{
    loop->seed ^= loop->seed << 13;
    loop->seed ^= loop->seed >> 7;
    loop->seed ^= loop->seed << 17;
    return (uint32_t)(loop->seed >> 32) % below;
}

static void pause_a_little(struct loop *loop)
{
    if (loop->pause_max > 0)
        for (uint32_t i = draw(loop, loop->pause_max + 1); i > 0; i--)
            mc_cpu_relax();
}

static void ring_bell(struct loop *loop, int due)
{
    if (!due)
        return;
    loop->bells++;
    if (loop->mode == LOOP_FUTEX)
        mc_bell_ring(loop->ring_word, loop->ring_waiters);
    else if (loop->mode == LOOP_EVENTFD)
        mc_eventfd_ring(loop->ring_fd);
}

static int sleep_futex(struct loop *loop, int (*arm)(void *), void *end)
{
    uint32_t seen = __atomic_load_n(loop->hear_word, __ATOMIC_ACQUIRE);

    if (arm(end))
        return MC_OK;
    loop->sleeps++;
    return mc_bell_wait(loop->hear_word, loop->hear_waiters, seen, loop->liveness_ns);
}

static int sleep_eventfd(struct loop *loop, int (*arm)(void *), void *end)
{
    struct pollfd heard = {.fd = loop->hear_fd, .events = POLLIN};
    eventfd_t rings;

    if (arm(end))
        return MC_OK;
    loop->sleeps++;
    if (poll(&heard, 1, (int)(loop->liveness_ns / 1000000)) == 0)
        return MC_ETIMEOUT;
    return eventfd_read(loop->hear_fd, &rings) < 0 && errno != EAGAIN ? MC_EKERNEL : MC_OK;
}

static int spin(struct loop *loop, int (*arm)(void *), void *end)
{
    uint64_t deadline_ns = mc_clock_ns() + loop->liveness_ns;

    while (mc_clock_ns() < deadline_ns) {
        for (int i = 0; i < 1000; i++) {
            if (arm(end))
                return MC_OK;
            mc_cpu_relax();
        }
        sched_yield();      /* the other end may need this CPU */
    }
    return MC_ETIMEOUT;
}

static int idle(struct loop *loop, int (*arm)(void *), void *end)
{
    if (loop->mode == LOOP_FUTEX)
        return sleep_futex(loop, arm, end);
    if (loop->mode == LOOP_EVENTFD)
        return sleep_eventfd(loop, arm, end);
    return spin(loop, arm, end);
}

static int arm_front(void *end) { return mc_front_arm(end); }
static int arm_back(void *end) { return mc_back_arm(end); }

static void fill(struct mc_record *record, uint64_t id)
{
    record->op = (uint16_t)id;
    record->id = id;
    for (int i = 0; i < 5; i++)
        record->arg[i] = id * (uint64_t)(i + 3);
}

static int is_filled(const struct mc_record *record, uint64_t id)
{
    for (int i = 0; i < 5; i++)
        if (record->arg[i] != id * (uint64_t)(i + 3))
            return 0;
    return record->op == (uint16_t)id && record->id == id;
}

/* With pauses the frontend waits for every batch, so that both ends sleep as often as they can. */
static int must_wait(const struct loop *loop, const struct mc_front *front, uint64_t sent)
{
    uint32_t outstanding = mc_front_outstanding(front);

    return outstanding == MC_RING_SLOTS ||
           (outstanding > 0 && (sent == loop->count || loop->pause_max > 0));
}

/* Send `count` records, check that each comes back once, in order and answered. */
int loop_front(struct loop *loop)
{
    struct mc_record record = {0};
    struct mc_front front;
    uint64_t sent = 0, answered = 0;
    int status;

    mc_front_bind(&front, loop->ring);
    while (answered < loop->count) {
        for (uint32_t left = 1 + draw(loop, loop->batch_max); left > 0 && sent < loop->count;
             left--) {
            fill(&record, sent);
            if (mc_front_push(&front, &record) != MC_OK)
                break;
            sent++;
        }
        ring_bell(loop, mc_front_publish(&front));
        pause_a_little(loop);
        while ((status = mc_front_pop(&front, &record)) == 1) {
            if (record.id != answered)
                return LOOP_REORDERED;
            if (!is_filled(&record, answered) || record.status != ANSWER(answered))
                return LOOP_CHANGED;
            answered++;
        }
        if (status == 0 && must_wait(loop, &front, sent))
            status = idle(loop, arm_front, &front);
        if (status < 0)
            return status;
    }
    return MC_OK;
}

/* Serve `count` records, checking each. */
int loop_back(struct loop *loop)
{
    struct mc_record record;
    struct mc_back back;
    uint64_t served = 0;
    int status;

    mc_back_bind(&back, loop->ring);
    while (served < loop->count) {
        uint32_t left = 1 + draw(loop, loop->batch_max);

        while (left-- > 0 && (status = mc_back_pop(&back, &record)) == 1) {
            if (record.id != served)
                return LOOP_REORDERED;
            if (!is_filled(&record, served))
                return LOOP_CHANGED;
            record.status = ANSWER(served++);
            mc_back_push(&back, &record);
        }
        ring_bell(loop, mc_back_publish(&back));
        pause_a_little(loop);
        if (status == 0 && served < loop->count)
            status = idle(loop, arm_back, &back);
        if (status < 0)
            return status;
    }
    return MC_OK;
}
