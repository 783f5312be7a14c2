/* malformed.c: see malformed.h. */
#include "malformed.h"

#include <sched.h>

#define SENSIBLE_ONE_IN 64          /* words that could be meant */
#define LOOKS_MAX 1024              /* at empty rings, before the CPU is offered to others */

/* A record of any operation of any mechanism, or of none. */
static void make(struct mcc_attachment *own, struct mc_record *record)
{
    uint64_t dice = mcc_random(&own->state), frames = own->ram_bytes / MC_FRAME_BYTES;

    record->op = (uint16_t)(dice % 16 ? dice / 16 % MCC_OPS_END : dice / 16);
    record->flags = (uint16_t)(dice >> 24);
    record->status = (int64_t)mcc_random(&own->state);
    for (int i = 0; i < 5; i++) {
        uint64_t word = mcc_random(&own->state);

        record->arg[i] = word % SENSIBLE_ONE_IN ? word : (word >> 8) % frames;
    }
}

/* Take the answers that are there. Returns how many. */
static uint64_t take(struct mcc_attachment *own)
{
    struct mc_record answer;
    uint64_t taken = 0;

    for (int ring = 0; ring < MC_RINGS; ring++)
        while (taken < 2 * MC_RING_SLOTS && mc_front_pop(&own->fronts[ring], &answer) > 0)
            taken++;
    return taken;
}

/* Fill both rings. Returns how many records were sent, at most `most`. */
static uint64_t fill(struct mcc_attachment *own, uint64_t most)
{
    struct mc_record record = {0};
    uint64_t sent = 0;
    int rings_bell = 0;

    for (int ring = 0; ring < MC_RINGS; ring++) {
        while (sent < most && mc_front_outstanding(&own->fronts[ring]) < MC_RING_SLOTS) {
            make(own, &record);
            if (mc_front_push(&own->fronts[ring], &record))
                break;
            sent++;
        }
        rings_bell |= mc_front_publish(&own->fronts[ring]);
    }
    if (rings_bell)
        mc_eventfd_ring(own->bell_fd);
    return sent;
}

uint64_t mcc_malformed(struct mcc_attachment *own, uint64_t count)
{
    uint64_t sent = 0, answered = 0, looks = 0, since_ns = mc_clock_ns();

    while (answered < count) {
        uint64_t taken = take(own);

        answered += taken;
        sent += fill(own, count - sent);
        if (taken) {
            looks = 0;
            continue;
        }
        mc_cpu_relax();
        if (++looks % LOOKS_MAX)
            continue;
        if (looks == LOOKS_MAX)
            since_ns = mc_clock_ns();
        if (mcc_hung_up(own))
            break;
        if (mc_clock_ns() - since_ns > MCC_ANSWER_NS_MAX) {
            own->unanswered = sent - answered;
            break;
        }
        sched_yield();
    }
    return answered;
}
