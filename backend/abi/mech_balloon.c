/* mech_balloon.c: virtio-balloon, host half. balloon.h has the messages, ledger.h the holes.
 *
 *   set target   writes num_pages for the guest's driver. The driver decides what to do about it.
 *   INFLATE      makes holes of the frames of an array. They are punched one by one, as QEMU does
 *                where pages are 4 KiB, or neighbours together (option merge), as Firecracker does;
 *                or whole areas (option huge).
 *   DEFLATE      charges holes again. Their pages come when the guest touches them.
 *   REPORT       punches free areas, which stay the guest's (free page reporting).
 *
 * Punching an array takes up to a millisecond, longer when the guest keeps its file busy, so the
 * service thread leaves every array with a punch to the keeper. The service thread fills holes by
 * itself, unless the keeper sweeps.
 * A domain that boots with less than its maxmem begins with the difference in its balloon (Xen's
 * populate on demand): those areas are installed, every frame is a hole, and their words say
 * evicted until the driver has put them into its balloon.
 * Ten times a second the keeper looks for pages in the balloon.
 */
#include "balloon_areas.h"
#include "books.h"

#include "balloon.h"

#include <string.h>

#define SUPPLY_TRIES_MAX 2
#define SWEEP_NS_MAX 2000000    /* the keeper has other work; the area begun is finished */
#define WATCH_NS 100000000
#define WATCH_SHARE 10          /* sweeping may take one tenth of the keeper's time */

struct mc_balloon {             /* domain->device */
    struct mc_record request;   /* about the array below; its answer once the work is done */
    int array_waits;            /* for the keeper, which does the work and answers */
    int sweeping;               /* the keeper punches holes again: nobody may fill one */
    uint32_t sweep_area;        /* where the next sweep begins */
    uint64_t reported_frames;   /* since boot */
    uint64_t sweeps;            /* since boot */
    uint32_t pfns[MC_BALLOON_ARRAY_PFNS_MAX];   /* a copy of the guest's array: not checked yet */
};

static struct mc_balloon *balloon_of(const struct mc_domain *domain)
{
    MC_CHECK_IN(domain, domain->mechanism->id == MC_BALLOON && domain->device, "no balloon device");
    return domain->device;
}

/* Frames that an entry of an array stands for. */
static uint32_t balloon_unit(const struct mc_domain *domain)
{
    return domain->options[MC_BALLOON_HUGE] ? MC_AREA_FRAMES : 1;
}

static int balloon_open(struct mc_host *host, struct mc_domain *domain)
{
    (void)host;
    domain->granule_frames = balloon_unit(domain);
    return MC_OK;
}

/* An area with pins keeps its holes over a reboot. The new driver knows of none: fill them. */
static int balloon_fill_area(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    uint32_t frames[MC_AREA_FRAMES], bad, filled, holes = domain->hole_counts[area];
    mc_balloon_frames_of(area, frames);
    filled = mc_holes_fill(host, domain, frames, MC_AREA_FRAMES, 1, &bad);
    MC_CHECK_IN(domain, filled == holes || filled + bad < MC_AREA_FRAMES,
                "area %u: %u holes counted, %u filled", area, holes, filled);
    return filled == holes ? MC_OK : MC_ENOMEM;
}

static int balloon_boot(struct mc_host *host, struct mc_domain *domain)
{
    int status = MC_OK;
    MC_CHECK_IN(domain, domain->boot_areas <= domain->areas, "boots with %u areas of %u",
                domain->boot_areas, domain->areas);
    *balloon_of(domain) = (struct mc_balloon){0};
    for (uint32_t area = 0; area < domain->areas && !status; area++)
        if (domain->hole_counts[area])
            status = balloon_fill_area(host, domain, area);
    if (!status)
        status = mc_boot_plugged(host, domain);
    for (uint32_t area = domain->boot_areas; area < domain->areas && !status; area++)
        if (domain->states[area] == MC_A_HARD)  /* an area with pins is installed: it stays so */
            status = mc_plug_hollow(host, domain, area);
    return status;
}

static void balloon_tell_target(struct mc_host *host, struct mc_domain *domain)
{
    uint64_t total = mc_maxmem_frames(domain);
    (void)host;
    MC_CHECK_IN(domain, domain->target_frames <= total, "target of %lu frames, maxmem %lu",
                domain->target_frames, total);
    mc_config_write(domain, MC_BALLOON_NUM_PAGES, total - domain->target_frames);
    mc_config_ask(domain, domain->target_frames);
}

static void balloon_offer_target(struct mc_host *host, struct mc_domain *domain)
{
    domain->timer_ns = mc_clock_ns() + WATCH_NS;
    balloon_tell_target(host, domain);
}

/* ---- pages that lie in the balloon ----
 *
 * Nothing keeps a guest from touching a frame in its balloon. An honest guest does it unknowingly:
 * a touch next to a ballooned frame may make the kernel allocate a whole 2 MiB page, which
 * re-populates frames in the balloon. Then the domain's file has more pages than the ledger
 * granted, and the keeper punches the holes again. QEMU does not look. */

/* 1 when the domain's file has more pages than the domain has frames. */
static int balloon_leaks(const struct mc_domain *domain)
{
    int64_t bytes = mc_resident_bytes(domain->ram_fd);
    return bytes >= 0 && !mc_in_transit(domain) &&
           (uint64_t)bytes / MC_FRAME_BYTES > domain->installed_frames;
}

/* Punch the holes of area `area` and of those above it, for SWEEP_NS_MAX. Returns the area where
 * the next sweep is to begin: 0 when the last area was reached. Nobody may fill a hole of the
 * domain meanwhile. Releases the lock. */
static uint32_t balloon_sweep(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    uint32_t holes[MC_AREA_FRAMES], count;
    uint64_t until_ns = mc_clock_ns() + SWEEP_NS_MAX;
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, area < domain->areas, "sweep from area %u of %u", area, domain->areas);
    for (; area < domain->areas && mc_phase_of(domain) == MC_ACTIVE && mc_clock_ns() < until_ns;
         area++) {
        if (!domain->hole_counts[area])
            continue;
        if (!MC_CHECK_DOMAIN(host, domain, domain->states[area] == MC_A_INSTALLED,
                             "area %u of state %u has holes", area, domain->states[area]))
            break;
        count = 0;
        for (uint32_t frame = area * MC_AREA_FRAMES; frame < (area + 1) * MC_AREA_FRAMES; frame++)
            if (mc_is_hole(domain, frame))
                holes[count++] = frame;
        mc_holes_punch(host, domain, holes, count);
    }
    return area < domain->areas ? area : 0;
}

static void balloon_watch(struct mc_host *host, struct mc_domain *domain, uint64_t now_ns)
{
    struct mc_balloon *device = balloon_of(domain);
    MC_CHECK_LOCKED(host);
    if (!MC_CHECK_DOMAIN(host, domain, !device->sweeping, "%d sweeps already", device->sweeping))
        return;
    domain->timer_ns = now_ns + WATCH_NS;
    if (!balloon_leaks(domain))
        return;
    device->sweeping = 1;
    device->sweep_area = balloon_sweep(host, domain, device->sweep_area);
    device->sweeping = 0;
    domain->timer_ns = (device->sweep_area ? now_ns : now_ns + WATCH_NS) +
                       WATCH_SHARE * (mc_clock_ns() - now_ns);
    mc_config_write(domain, MC_BALLOON_SWEEPS, ++device->sweeps);
}

/* ---- arrays ---- */

/* Frames in the array. The request was checked when it came. */
static uint32_t balloon_array_count(const struct mc_balloon *device)
{
    uint64_t count = device->request.arg[0];
    MC_CHECK(count && count <= MC_BALLOON_ARRAY_PFNS_MAX, "op %lu: array of %lu frames",
             (uint64_t)device->request.op, count);
    return (uint32_t)count;
}

/* Write the answer: as status how many frames of the array are as asked, holes or not (at least
 * one), else `refusal`; in arg[1..4] one bit for each frame that is not as asked. */
static void balloon_answer(const struct mc_domain *domain, struct mc_balloon *device, int hole,
                           int refusal)
{
    struct mc_record *request = &device->request;
    uint32_t count = balloon_array_count(device), done = 0;
    MC_CHECK_IN(domain, refusal <= 0, "refused by %d", refusal);
    memset(&request->arg[1], 0, 4 * sizeof request->arg[0]);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t frame = device->pfns[i];
        if (frame < mc_maxmem_frames(domain) && frame % balloon_unit(domain) == 0 &&
            mc_is_hole(domain, frame) == hole)
            done++;
        else
            request->arg[1 + i / 64] |= 1ull << i % 64;
    }
    request->status = done ? (int64_t)done : refusal;
}

/* The process before made holes of some frames of this array, and may not have punched them.
 * Releases the lock. */
static void balloon_punch_again(struct mc_host *host, struct mc_domain *domain,
                                const struct mc_balloon *device)
{
    uint32_t holes[MC_BALLOON_ARRAY_PFNS_MAX], made = 0, count = balloon_array_count(device);
    for (uint32_t i = 0; i < count; i++)
        if (device->pfns[i] < mc_maxmem_frames(domain) && mc_is_hole(domain, device->pfns[i]))
            holes[made++] = device->pfns[i];
    if (made && balloon_unit(domain) == 1)
        mc_holes_punch(host, domain, holes, made);
    if (made && balloon_unit(domain) > 1)
        mc_balloon_punch_areas(host, domain, holes, made);
}

static void balloon_inflate(struct mc_host *host, struct mc_domain *domain,
                            struct mc_balloon *device)
{
    uint32_t count = balloon_array_count(device), bad = 0, wrong = 0;
    uint32_t step = domain->options[MC_BALLOON_MERGE] ? count : 1;
    uint64_t refused = domain->counters.refused_dma;
    if (mc_is_memory_again(domain, &device->request))
        balloon_punch_again(host, domain, device);
    if (balloon_unit(domain) > 1)
        wrong = mc_balloon_make_areas(host, domain, device->pfns, count);
    for (uint32_t i = 0; balloon_unit(domain) == 1 && i < count &&
                         mc_phase_of(domain) == MC_ACTIVE; i += step) {
        mc_holes_make(host, domain, device->pfns + i, step, &bad);
        wrong += bad;
    }
    MC_CHECK_IN(domain, domain->counters.refused_dma >= refused, "%lu refused for pins, now %lu",
                refused, domain->counters.refused_dma);
    if (wrong > domain->counters.refused_dma - refused &&
        !mc_is_memory_again(domain, &device->request))
        mc_count_bad(domain);
    balloon_answer(domain, device, 1, 0);
}

/* Areas that are wholly in the balloon have no bank: choose one for each. */
static void balloon_choose_banks(struct mc_host *host, struct mc_domain *domain,
                                 const struct mc_balloon *device)
{
    uint32_t count = balloon_array_count(device);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t area = device->pfns[i] / MC_AREA_FRAMES;
        if (area >= domain->areas || domain->hole_counts[area] != MC_AREA_FRAMES)
            continue;
        if (!MC_CHECK_DOMAIN(host, domain, domain->states[area] == MC_A_INSTALLED,
                             "area %u of state %u is a hole", area, domain->states[area]) ||
            mc_balloon_choose_bank(host, domain, area, count))
            return;
    }
}

/* Fill the first `count` holes of the array. Up to its target a domain is given memory from
 * wherever it can be had, which is for the keeper to find; beyond it what is free. The keeper
 * releases the lock. */
static void balloon_fill_array(struct mc_host *host, struct mc_domain *domain,
                               struct mc_balloon *device, uint32_t count)
{
    uint32_t done = 0, wrong = 0, bad;
    int slack_too = 0;
    MC_CHECK_IN(domain, count <= balloon_array_count(device), "%u frames of an array of %lu", count,
                device->request.arg[0]);
    for (int tries = 0; tries <= SUPPLY_TRIES_MAX; tries++) {
        int path = MC_PATH_RING;
        balloon_choose_banks(host, domain, device);
        done += mc_holes_fill(host, domain, device->pfns + done, count - done, slack_too, &bad);
        done += bad;
        wrong += bad;
        if (done == count || !device->array_waits ||
            domain->installed_frames + count - done > domain->target_frames ||
            mc_supply_find(host, domain, &path))
            break;
        slack_too = 1;          /* what was found, or is coming, may stand in for the slack */
    }
    if (wrong && !mc_is_memory_again(domain, &device->request))
        mc_count_bad(domain);
}

static void balloon_deflate(struct mc_host *host, struct mc_domain *domain,
                            struct mc_balloon *device)
{
    uint64_t count = balloon_array_count(device), size = domain->installed_frames;
    uint64_t room = domain->target_frames > size ? domain->target_frames - size : 0;
    uint32_t wrong = 0;
    room /= balloon_unit(domain);
    if (!domain->options[MC_BALLOON_OOM] && count > room)
        count = room;
    if (balloon_unit(domain) > 1)
        wrong = mc_balloon_fill_areas(host, domain, device->pfns, (uint32_t)count);
    else
        balloon_fill_array(host, domain, device, (uint32_t)count);
    if (wrong && !mc_is_memory_again(domain, &device->request))
        mc_count_bad(domain);
    balloon_answer(domain, device, 0, count ? MC_ENOMEM : MC_ETARGET);
    domain->counters.refused += device->request.status < balloon_array_count(device);
}

/* 1 when the pages of this area may go: installed, no holes, nothing pinned. */
static int balloon_may_report(struct mc_domain *domain, uint32_t frame)
{
    uint32_t area = frame / MC_AREA_FRAMES;
    if (frame % MC_AREA_FRAMES || area >= domain->areas ||
        domain->states[area] != MC_A_INSTALLED || domain->hole_counts[area]) {
        mc_count_bad(domain);
        return 0;
    }
    domain->counters.refused_dma += domain->pin_counts[area] > 0;
    return !domain->pin_counts[area];
}

/* Punch an area that stays the guest's; 1 when it was done. An area that was pinned meanwhile gets
 * pages again, as far as the kernel has any. Releases the lock. */
static int balloon_punch_area(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    int failed;
    MC_CHECK_IN(domain, domain->states[area] == MC_A_INSTALLED, "area %u of state %u is reported",
                area, domain->states[area]);
    mc_domain_hold(host, domain);
    failed = mc_punch(domain->ram_fd, mc_area_offset(area), MC_AREA_BYTES);
    mc_domain_let_go(host, domain);
    if (domain->pin_counts[area]) {
        int denied;
        mc_domain_hold(host, domain);
        denied = mc_populate_write(mc_area_address(domain, area), MC_AREA_BYTES);
        mc_domain_let_go(host, domain);
        domain->counters.refused += denied != 0;
    }
    return !failed;
}

static void balloon_report(struct mc_host *host, struct mc_domain *domain,
                           struct mc_balloon *device)
{
    uint32_t count = balloon_array_count(device), done = 0;
    uint64_t *refused = &device->request.arg[1];
    MC_CHECK_IN(domain, count <= MC_BALLOON_REPORT_MAX, "%u areas reported", count);
    memset(refused, 0, 4 * sizeof *refused);
    for (uint32_t i = 0; i < count && mc_phase_of(domain) == MC_ACTIVE; i++) {
        if (balloon_may_report(domain, device->pfns[i]))
            done += (uint32_t)balloon_punch_area(host, domain, device->pfns[i] / MC_AREA_FRAMES);
        else
            *refused |= 1ull << i;
    }
    device->reported_frames += (uint64_t)done * MC_AREA_FRAMES;
    mc_config_write(domain, MC_BALLOON_REPORTED, device->reported_frames);
    device->request.status = done;
}

/* Do what the request says with the array, and write the answer into the request. */
static void balloon_work_on_array(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_balloon *device = balloon_of(domain);
    switch (device->request.op) {
    case MC_OP_BALLOON_INFLATE:
        balloon_inflate(host, domain, device);
        break;
    case MC_OP_BALLOON_DEFLATE:
        balloon_deflate(host, domain, device);
        break;
    default:
        device->request.status = MC_EBROKEN;
        if (MC_CHECK_DOMAIN(host, domain, device->request.op == MC_OP_BALLOON_REPORT,
                            "op %u of an array", device->request.op))
            balloon_report(host, domain, device);
    }
}

/* Keeper: the array that the service thread left to it. */
static int balloon_serve_array(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_balloon *device = balloon_of(domain);
    MC_CHECK_LOCKED(host);
    if (!device->array_waits)
        return 0;
    balloon_work_on_array(host, domain);
    mc_answer(host, domain, &device->request);
    MC_BOOKED();
    device->array_waits = 0;
    return 1;
}

static enum mc_served balloon_request(struct mc_host *host, struct mc_domain *domain,
                                      struct mc_record *record)
{
    struct mc_balloon *device = balloon_of(domain);
    uint64_t most = record->op == MC_OP_BALLOON_REPORT ? MC_BALLOON_REPORT_MAX
                                                       : MC_BALLOON_ARRAY_PFNS_MAX;
    MC_CHECK_LOCKED(host);
    if (record->op < MC_OP_BALLOON_INFLATE || record->op > MC_OP_BALLOON_REPORT)
        return mc_answered(record, MC_EOP);
    if (!record->arg[0] || record->arg[0] > most)
        return mc_answered(record, MC_EINDEX);
    if (device->array_waits)
        return mc_answered(record, MC_ESTATE);
    device->request = *record;
    memcpy(device->pfns, mc_balloon_array(domain->control), record->arg[0] * sizeof *device->pfns);
    if (record->op != MC_OP_BALLOON_DEFLATE || device->sweeping || balloon_unit(domain) > 1 ||
        !mc_has_free(host, record->arg[0])) {
        MC_BOOKED();
        device->array_waits = 1;
        mc_work(host, domain);
        return MC_KEPT;
    }
    balloon_work_on_array(host, domain);
    *record = device->request;
    return MC_ANSWERED;
}

static int64_t balloon_recover(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_balloon *device = balloon_of(domain);
    if (!MC_CHECK_DOMAIN(host, domain,
                         !device->array_waits ||
                             (device->request.op >= MC_OP_BALLOON_INFLATE &&
                              device->request.op <= MC_OP_BALLOON_REPORT &&
                              device->request.arg[0] <= MC_BALLOON_ARRAY_PFNS_MAX),
                         "op %u of %lu frames waits", device->request.op, device->request.arg[0]))
        return MC_EBROKEN;
    device->sweeping = 0;
    if (device->array_waits && !mc_keep_again(domain, &device->request))
        device->array_waits = 0;
    return device->array_waits;
}

const struct mc_mechanism mc_balloon = {
    .name = "balloon",
    .says = "virtio-balloon: the guest's driver gives frames back, up to 256 in a message",
    .id = MC_BALLOON, .granule_frames = 1,
    .options = {[MC_BALLOON_MERGE] = {"merge", 0, 0, 1,
                                       "1: neighbours go back to the kernel in one call"},
                [MC_BALLOON_OOM] = {"deflate_on_oom", 0, 0, 1,
                                     "1: an allocation that finds nothing takes frames back"},
                [MC_BALLOON_REPORT_MS] = {"report_ms", 0, 0, 600000,
                                           "free memory is reported so often; 0: never"},
                [MC_BALLOON_STATS_MS] = {"stats_ms", 1000, 0, 600000,
                                          "between two statistics; 0: after a resize only"},
                [MC_BALLOON_HUGE] = {"huge", 0, 0, 1, "1: in steps of 2 MiB instead of 4 KiB"}},
    .device_bytes = sizeof(struct mc_balloon), .open = balloon_open, .boot = balloon_boot,
    .target = balloon_tell_target,
    .offer = balloon_offer_target, .request = balloon_request,
    .jobs = {[MC_JOB_TAKE] = balloon_serve_array}, .timer = balloon_watch,
    .recover = balloon_recover,
};
