/* check_ring.c: a ring and its bells, as the two ends use them. No request is lost, each answer is
 * right, and nobody sleeps for ever.
 *
 * check-ring MODEL EXECUTIONS_MAX [MORE]; ends at the first failure with 1. MORE is added to the
 * preemptions that an execution may have. Below stand the loops of frontend/abi/call.c and
 * backend/abi/service.c, reduced to what touches ring.h and bell.h. The guest does not spin: to
 * spin is to look more often.
 */
#include "bell.h"
#include "ring.h"

#include <stdio.h>

#define ANSWER 100                  /* the status of answer number 0 */
#define FOREVER_NS UINT64_MAX

static struct mc_ring ring;
static struct mc_front front;
static struct mc_back back;
static uint32_t guest_bell, guest_waiters, bells;
static int service_bell;            /* the eventfd, under an edge-triggered epoll */
static int requests, batch, sets;   /* of this configuration; sets: the bell is set, not raised */
static int answered;

static int send_some(int sent, int got)
{
    int pushed = 0;
    for (; sent + pushed < requests && sent + pushed - got < batch; pushed++) {
        struct mc_record record = {.id = (uint64_t)(sent + pushed)};
        mck_assert(mc_front_push(&front, &record) == MC_OK, "a request was refused");
    }
    if (pushed && mc_front_publish(&front))
        mck_wake(&service_bell);
    return pushed;
}

static void guest(void *argument)
{
    int sent = 0, status;
    (void)argument;
    while (answered < requests) {
        struct mc_record record;
        uint32_t seen = __atomic_load_n(&guest_bell, __ATOMIC_SEQ_CST);
        int before = answered;
        sent += send_some(sent, answered);
        while ((status = mc_front_pop(&front, &record)) > 0) {
            mck_assert(record.id == (uint64_t)answered && record.status == ANSWER + answered,
                       "a wrong answer");
            answered++;
        }
        mck_assert(status == 0, "the guest found its ring broken");
        if (answered == before && !mc_front_arm(&front))
            mc_bell_wait(&guest_bell, &guest_waiters, seen, FOREVER_NS);
    }
}

static void ring_guest_bell(void)
{
    if (sets)
        mc_bell_set(&guest_bell, &guest_waiters, ++bells);
    else
        mc_bell_ring(&guest_bell, &guest_waiters);
}

static void service(void *argument)
{
    int served = 0, status;
    (void)argument;
    while (served < requests) {
        struct mc_record record;
        int before = served;
        while ((status = mc_back_pop(&back, &record)) > 0) {
            record.status = ANSWER + served++;
            mck_assert(mc_back_push(&back, &record) == MC_OK, "an answer was refused");
        }
        mck_assert(status == 0, "the service thread found the ring broken");
        if (served > before) {
            if (mc_back_publish(&back))
                ring_guest_bell();
        } else if (!mc_back_arm(&back)) {
            mck_block(&service_bell);
        }
    }
}

static void setup(void)
{
    mc_ring_format(&ring);
    mc_front_bind(&front, &ring);
    mc_back_bind(&back, &ring);
    guest_bell = guest_waiters = bells = 0;
    service_bell = answered = 0;
    mck_spawn(guest, NULL);
    mck_spawn(service, NULL);
}

static void final(void)
{
    mck_assert(answered == requests, "a request has no answer");
    mck_assert(guest_waiters == 0, "a waiter is counted that is gone");
}

int main(int argc, char **argv)
{
    uint64_t executions_max = mck_arguments(argc, argv);
    for (requests = 1; requests <= 3; requests++)
        for (batch = 1; batch <= (requests > 1 ? 2 : 1); batch++)
            for (sets = 0; sets <= 1; sets++) {
                char name[80];
                mck_preemptions_max = (requests == 1 ? 6 : requests == 2 ? 4 : 3) + mck_more;
                snprintf(name, sizeof name, "%d requests, %d at a time, bell %s", requests, batch,
                         sets ? "set" : "raised");
                if (!mck_explore(setup, final, executions_max, name))
                    return 1;
            }
    return 0;
}
