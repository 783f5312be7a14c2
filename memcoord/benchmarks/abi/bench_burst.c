/* bench_burst.c: see bench_burst.h. */
#include "bench_burst.h"

#include <time.h>

static void sleep_until(uint64_t at_ns)
{
    struct timespec at = {.tv_sec = (time_t)(at_ns / 1000000000u),
                          .tv_nsec = (long)(at_ns % 1000000000u)};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL))
        ;
}

/* Report the frames in use, by which the bench resizes the domain by hand. */
static void tell_use(struct mc_guest *guest, const struct mcb_demand *demand, uint64_t wanted)
{
    atomic_store(&guest->control->used_frames, demand->base_frames + demand->held + wanted);
}

static int give(struct mc_guest *guest, int slot, struct mcb_demand *demand, uint64_t count)
{
    int64_t freed = 0;

    demand->held -= count;
    if (count)
        freed = mcb_give_all(guest, slot, demand->frames + demand->held, count);
    return freed < 0 ? (int)freed : MC_OK;
}

/* Take `count` frames more. Returns how many were granted in time, or a negative status. */
static int64_t take(struct mc_guest *guest, int slot, struct mcb_demand *demand, uint64_t count,
                    uint64_t until_ns)
{
    struct timespec poll = {.tv_nsec = MCB_DEMAND_POLL_NS};
    uint64_t taken = 0;

    if (demand->plea_fd >= 0 && !demand->asks)
        mc_eventfd_ring(demand->plea_fd);
    for (;;) {
        uint32_t *out = demand->frames + demand->held;
        uint64_t left = count - taken, wanted = left < MC_AREA_FRAMES ? left : MC_AREA_FRAMES;
        int64_t given = mcb_alloc(guest, slot, out, wanted, demand->asks);

        if (given < 0)
            return given;
        if (given > 0)
            mcb_touch(guest, out[0]);
        demand->held += (uint64_t)given;
        taken += (uint64_t)given;
        if (taken == count || mc_clock_ns() > until_ns)
            return (int64_t)taken;
        if (given < (int64_t)wanted)
            nanosleep(&poll, NULL);
    }
}

/* One request; *missed_areas grows by the areas that were not granted. */
static int request(struct mc_guest *guest, int slot, struct mcb_demand *demand,
                   struct mcb_step *step, uint64_t since_ns, uint64_t *missed_areas)
{
    uint64_t count = (uint64_t)step->areas * MC_AREA_FRAMES;
    int64_t taken;

    step->granted_ns = step->touched_ns = 0;
    tell_use(guest, demand, count);
    taken = take(guest, slot, demand, count, since_ns + demand->missed_ns);
    if (taken < 0)
        return (int)taken;
    if ((uint64_t)taken < count) {
        *missed_areas += (uint64_t)step->areas;
        return give(guest, slot, demand, (uint64_t)taken);
    }
    step->granted_ns = mc_clock_ns() - since_ns;
    for (uint64_t i = 0; i < count; i++)
        mcb_touch(guest, demand->frames[demand->held - count + i]);
    step->touched_ns = mc_clock_ns() - since_ns;
    return MC_OK;
}

int mcb_demand_run(struct mc_guest *guest, int slot, struct mcb_demand *demand)
{
    uint64_t start_ns = mc_clock_ns(), ended_ns = start_ns, missed_areas = 0;
    int status = MC_OK;

    tell_use(guest, demand, 0);
    for (uint64_t i = 0; i < demand->count && !status; i++) {
        struct mcb_step *step = &demand->steps[i];
        uint64_t since_ns = (demand->is_apart ? ended_ns : start_ns) + step->at_ns;

        if (ended_ns < since_ns) {
            sleep_until(since_ns);
            since_ns = mc_clock_ns();
        }
        if (step->areas > 0) {
            if (demand->held + (uint64_t)step->areas * MC_AREA_FRAMES > demand->room)
                return MC_EINDEX;
            status = request(guest, slot, demand, step, since_ns, &missed_areas);
        } else {
            uint64_t areas = (uint64_t)-step->areas;
            uint64_t never = areas < missed_areas ? areas : missed_areas;
            uint64_t frames = (areas - never) * MC_AREA_FRAMES;

            missed_areas -= never;
            status = give(guest, slot, demand, frames < demand->held ? frames : demand->held);
        }
        tell_use(guest, demand, 0);
        ended_ns = mc_clock_ns();
    }
    return status;
}
