/* cheat.c: see cheat.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "cheat.h"

#include <poll.h>
#include <time.h>

#define LOOK_EACH 256               /* steps of a loop between two looks at the clock */

uint64_t mcc_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

int mcc_hung_up(const struct mcc_attachment *own)
{
    struct pollfd peer = {.fd = own->attach_fd, .events = POLLRDHUP};

    return poll(&peer, 1, 0) > 0;
}

static int is_over(const struct mcc_attachment *own, uint64_t end_ns)
{
    return mc_clock_ns() >= end_ns || mcc_hung_up(own);
}

void mcc_bind(struct mcc_attachment *own)
{
    const struct mc_control *control = (const struct mc_control *)own->meta;

    mc_front_bind(&own->fronts[0], (struct mc_ring *)(own->meta + control->memory_ring_offset));
    mc_front_bind(&own->fronts[1], (struct mc_ring *)(own->meta + control->tmem_ring_offset));
}

/* Not ended by a hang-up: memory that was mapped stays mapped. */
uint64_t mcc_touch(const struct mcc_attachment *own, uint64_t for_ns)
{
    uint64_t end_ns = mc_clock_ns() + for_ns, writes = 0;

    while (mc_clock_ns() < end_ns)
        for (uint64_t at = 0; at < own->ram_bytes; at += MC_FRAME_BYTES) {
            *(volatile uint64_t *)(own->ram + at) = ~at;
            if (++writes % LOOK_EACH == 0 && mc_clock_ns() >= end_ns)
                break;
        }
    return writes;
}

uint64_t mcc_flood_bell(const struct mcc_attachment *own, uint64_t for_ns)
{
    uint64_t end_ns = mc_clock_ns() + for_ns, rings = 0;

    do
        for (int i = 0; i < LOOK_EACH; i++, rings++)
            mc_eventfd_ring(own->bell_fd);
    while (!is_over(own, end_ns));
    return rings;
}

/* Answers are taken and not looked at: the next record needs their slot. */
static void drain(struct mc_front *front)
{
    struct mc_record answer;

    for (int i = 0; i < MC_RING_SLOTS && mc_front_pop(front, &answer) > 0; i++)
        ;
}

uint64_t mcc_flood_ring(struct mcc_attachment *own, uint32_t op, uint32_t other, uint64_t arg,
                        uint64_t for_ns)
{
    uint64_t end_ns = mc_clock_ns() + for_ns, sent = 0;
    struct mc_record record = {.arg = {arg}};

    while (!is_over(own, end_ns)) {
        drain(&own->fronts[0]);
        for (int i = 0; i < MC_RING_SLOTS; i++) {
            record.op = (uint16_t)(sent & 1 ? other : op);
            if (mc_front_push(&own->fronts[0], &record))
                break;
            sent++;
        }
        mc_front_publish(&own->fronts[0]);
        mc_eventfd_ring(own->bell_fd);
    }
    return sent;
}

uint64_t mcc_lie(struct mcc_attachment *own, uint64_t for_ns)
{
    uint64_t end_ns = mc_clock_ns() + for_ns, lies = 0;
    struct mc_control *control = (struct mc_control *)own->meta;
    _Atomic int64_t *const told[] = {
        &control->used_frames, &control->faults, &control->swap_ins, &control->swap_outs,
        &control->references, &control->committed_frames, &control->stall_ns,
        &control->idle_permille,
    };
    _Atomic uint64_t *const words[] = {
        &control->credit_taken, &control->credit_dry,
        &control->file_frames, &control->migrated_frames,
    };

    do {
        for (uint32_t i = 0; i < sizeof told / sizeof *told; i++)
            atomic_store(told[i], (int64_t)(mcc_random(&own->state)
                                            << (mcc_random(&own->state) & 63)));
        for (uint32_t i = 0; i < sizeof words / sizeof *words; i++)
            atomic_store(words[i], mcc_random(&own->state) >> (mcc_random(&own->state) & 63));
        for (uint32_t i = 0; i < sizeof control->driver / sizeof *control->driver; i++)
            __atomic_store_n(&control->driver[i], mcc_random(&own->state), __ATOMIC_RELEASE);
        atomic_store(&control->driver_status, MC_STEP_DONE);
        atomic_store(&control->config_seen, atomic_load(&control->config_bell));
        mc_eventfd_ring(own->bell_fd);
        lies++;
    } while (!is_over(own, end_ns));
    return lies;
}

uint64_t mcc_burn(const struct mcc_attachment *own, uint64_t for_ns)
{
    uint64_t end_ns = mc_clock_ns() + for_ns, turns = 0;

    do
        for (int i = 0; i < LOOK_EACH; i++, turns++)
            mc_cpu_relax();
    while (!is_over(own, end_ns));
    return turns;
}

static uint64_t corrupted(uint64_t word, int how, uint64_t *state)
{
    switch (how) {
    case MCC_ZERO:
        return 0;
    case MCC_ONES:
        return UINT64_MAX;
    case MCC_OFF_BY_ONE:        /* in its low or its high half */
        return mcc_random(state) & 1 ? word + 1 : word - (1ull << 32);
    default:
        return mcc_random(state);
    }
}

/* A record of any operation, half of them with words that could be meant. */
static struct mc_record any_record(struct mcc_attachment *own)
{
    uint64_t dice = mcc_random(&own->state), frames = own->ram_bytes / MC_FRAME_BYTES;
    struct mc_record record = {.flags = (uint16_t)(dice >> 16)};

    record.op = (uint16_t)(dice % MCC_OPS_END);
    for (int i = 0; i < 5; i++) {
        uint64_t word = mcc_random(&own->state);

        record.arg[i] = dice >> (32 + i) & 1 ? word : word % (dice >> (40 + i) & 1 ? frames : 65);
    }
    return record;
}

static void say(struct mcc_attachment *own, int ring)
{
    struct mc_record record = any_record(own);

    if (!mc_front_push(&own->fronts[ring], &record))
        mc_front_publish(&own->fronts[ring]);
    mc_eventfd_ring(own->bell_fd);
}

/* A record that an honest guest might send, so that the cheater is not thrown out for it. */
static void say_mildly(struct mcc_attachment *own)
{
    struct mc_record record = {.op = MC_OP_NOP};

    if (mcc_random(&own->state) % 4 == 0)     /* of the slower ones, on memory */
        record.op = (uint16_t)(mcc_random(&own->state) % (MC_OP_INSTALL + 1));
    record.arg[0] = 1 + mcc_random(&own->state) % 4;
    if (!mc_front_push(&own->fronts[0], &record))
        mc_front_publish(&own->fronts[0]);
    mc_eventfd_ring(own->bell_fd);
}

static void await_served(struct mcc_attachment *own)
{
    uint64_t end_ns = mc_clock_ns() + MCC_SERVED_NS_MAX;
    struct mc_record answer;

    while (!mc_front_pop(&own->fronts[0], &answer) && mc_clock_ns() < end_ns)
        mc_cpu_relax();
}

uint64_t mcc_each_word(struct mcc_attachment *own, uint64_t first, uint64_t last, uint32_t step,
                       int how)
{
    for (uint64_t at = first; at < last; at += step) {
        volatile uint64_t *word = (volatile uint64_t *)own->meta + at;
        uint64_t was = *word, now = corrupted(was, how, &own->state);

        *word = now;
        say_mildly(own);
        await_served(own);
        if (*word == now)           /* unless the hypervisor has written it meanwhile */
            *word = was;
        if (mcc_hung_up(own))
            return at + step;
    }
    return last;
}

static uint64_t pick(struct mcc_attachment *own, const struct mcc_range *ranges, uint32_t count)
{
    uint64_t weights = 0, dice;
    uint32_t i = 0;

    for (uint32_t k = 0; k < count; k++)
        weights += ranges[k].weight;
    for (dice = mcc_random(&own->state) % weights; dice >= ranges[i].weight; i++)
        dice -= ranges[i].weight;
    return ranges[i].first + mcc_random(&own->state) % (ranges[i].last - ranges[i].first);
}

uint64_t mcc_corrupt(struct mcc_attachment *own, const struct mcc_range *ranges,
                     uint32_t range_count, uint64_t count)
{
    uint64_t done = 0;

    while (done < count) {
        volatile uint64_t *word = (volatile uint64_t *)own->meta + pick(own, ranges, range_count);

        *word = corrupted(*word, (int)(mcc_random(&own->state) % MCC_VALUES), &own->state);
        if (++done % MCC_BURST_WORDS)
            continue;
        drain(&own->fronts[0]);
        drain(&own->fronts[1]);
        say(own, (int)(mcc_random(&own->state) & 1));
        if (mcc_hung_up(own))
            break;
    }
    return done;
}

static void rest(uint64_t pause_ns)
{
    struct timespec pause = {.tv_sec = (time_t)(pause_ns / 1000000000u),
                             .tv_nsec = (long)(pause_ns % 1000000000u)};

    if (pause_ns)
        nanosleep(&pause, NULL);
}

int64_t mcc_grants(struct mc_guest *guest, uint64_t *samples, uint32_t count, uint64_t pause_ns,
                   uint64_t for_ns)
{
    uint64_t end_ns = mc_clock_ns() + for_ns;
    uint32_t done = 0;

    while (done < count && mc_clock_ns() < end_ns) {
        uint64_t start_ns = mc_clock_ns();
        int path;
        int64_t gained;

        do      /* the host may not have punched the area given back yet */
            gained = mc_guest_request(guest, MC_AREA_FRAMES, &path);
        while ((gained == MC_ETARGET || gained == MC_ENOMEM) && mc_clock_ns() < end_ns);
        if (gained < 0)
            return gained == MC_ETARGET || gained == MC_ENOMEM ? done : gained;
        samples[done++] = mc_clock_ns() - start_ns;
        gained = mc_guest_release(guest, MC_AREA_FRAMES);
        if (gained < 0)
            return gained;
        rest(pause_ns);
    }
    return done;
}

int64_t mcc_puts(struct mc_guest *guest, uint64_t pool, uint64_t frame, uint64_t *samples,
                 uint32_t count, uint64_t pause_ns, uint64_t for_ns)
{
    uint64_t end_ns = mc_clock_ns() + for_ns;
    uint32_t done = 0;

    while (done < count && mc_clock_ns() < end_ns) {
        uint64_t start_ns = mc_clock_ns();
        struct mc_record record = {.op = MC_OP_PUT,
                                   .arg = {pool | (uint64_t)(done % MCC_PUT_KEYS) << 32, 1, 2, 3,
                                           frame}};
        int status = mc_guest_call(guest, MC_RING_TMEM, &record, 1);

        if (status || record.status <= MC_TMEM_BAD)
            return status ? status : record.status;
        samples[done++] = mc_clock_ns() - start_ns;
        rest(pause_ns);
    }
    return done;
}

void mcc_watch_run(struct mcc_watch *watch, uint64_t period_ns)
{
    while (!__atomic_load_n(&watch->stop, __ATOMIC_ACQUIRE)) {
        uint32_t count = __atomic_load_n(&watch->count, __ATOMIC_ACQUIRE);
        uint64_t sum = 0;

        for (uint32_t i = 0; i < count; i++) {
            int64_t bytes = mc_resident_bytes(watch->fds[i]);

            if (bytes <= 0)
                continue;
            sum += (uint64_t)bytes;
            if ((uint64_t)bytes > watch->peaks_bytes[i])
                watch->peaks_bytes[i] = (uint64_t)bytes;
        }
        watch->looks++;
        if (sum > watch->peak_bytes)
            watch->peak_bytes = sum;
        if (sum > watch->limit_bytes && !watch->first_over_ns)
            watch->first_over_ns = mc_clock_ns();
        rest(period_ns);
    }
}
