/* mech_balloon.c: virtio-balloon, host half. See balloon.h for what is said, ledger.h for holes.
 *
 *   set target   num_pages for the driver; what it does about it is its own affair.
 *   INFLATE      the frames of an array become holes: punched one by one as QEMU does where pages
 *                are 4 KiB, or neighbours together (option merge) as Firecracker does.
 *   DEFLATE      holes are charged again; their pages come when the guest touches them.
 *   REPORT       the pages of free areas go, the areas stay the guest's (free page reporting).
 *
 * An array is one guest's business and takes up to a millisecond to punch, longer when the guest
 * keeps its file busy, so it is kept for the worker and answered late; only what needs no punch is
 * done on the service thread.
 * A domain that boots with less than it may have begins with its balloon inflated by the difference
 * (Xen's populate on demand): those areas are installed and wholly holes. Their words say evicted
 * until the driver has put them into its balloon.
 * The worker looks now and then whether the domain has more pages than frames: balloon_watch.h.
 */
#include "mechanism.h"

#include "balloon.h"
#include "balloon_watch.h"

#include <stdlib.h>
#include <string.h>

#define SUPPLY_TRIES_MAX 2
#define WATCH_NS 100000000
#define WATCH_SHARE 10          /* of the worker's time that sweeping may take: one tenth */

struct device {
    struct mc_record record;    /* of the array below */
    int kept;                   /* for the worker */
    int sweeping;               /* its holes are being punched again: nobody may fill one */
    uint32_t sweep_area;        /* where to go on with that */
    uint64_t reported_frames;   /* since boot */
    uint64_t sweeps;
    uint32_t pfns[MC_BALLOON_ARRAY_PFNS_MAX];
};

static int open_device(struct mc_host *host, struct mc_domain *domain)
{
    (void)host;
    domain->device = calloc(1, sizeof(struct device));
    return domain->device ? MC_OK : MC_ENOMEM;
}

static void close_device(struct mc_host *host, struct mc_domain *domain)
{
    (void)host;
    free(domain->device);
    domain->device = NULL;
}

/* An area that was kept for its pins is the guest's as a whole again: its driver starts anew. */
static int fill_area(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    uint32_t frames[MC_AREA_FRAMES], bad, holes = domain->hole_counts[area];

    for (uint32_t i = 0; i < MC_AREA_FRAMES; i++)
        frames[i] = area * MC_AREA_FRAMES + i;
    return mc_holes_fill(host, domain, frames, MC_AREA_FRAMES, 1, &bad) == holes ? MC_OK
                                                                                 : MC_ENOMEM;
}

static int boot(struct mc_host *host, struct mc_domain *domain)
{
    int status = MC_OK;

    memset(domain->device, 0, sizeof(struct device));
    for (uint32_t area = 0; area < domain->areas && !status; area++)
        if (domain->hole_counts[area])
            status = fill_area(host, domain, area);
    if (!status)
        status = mc_boot_plugged(host, domain);
    for (uint32_t area = domain->boot_areas; area < domain->areas && !status; area++)
        mc_plug_hollow(host, domain, area);     /* one that was pinned is not hard: it stays */
    return status;
}

static void ask(struct mc_host *host, struct mc_domain *domain)
{
    uint64_t total = (uint64_t)domain->areas * MC_AREA_FRAMES;

    (void)host;
    __atomic_store_n(&domain->control->config[MC_BALLOON_NUM_PAGES],
                     total - domain->target_frames, __ATOMIC_RELEASE);
    mc_config_ask(domain, domain->target_frames);
}

static void offer(struct mc_host *host, struct mc_domain *domain)
{
    domain->timer_ns = mc_clock_ns() + WATCH_NS;
    ask(host, domain);
}

static void watch(struct mc_host *host, struct mc_domain *domain, uint64_t now_ns)
{
    struct device *device = domain->device;

    domain->timer_ns = now_ns + WATCH_NS;
    if (!mc_balloon_leaks(domain))
        return;
    device->sweeping = 1;
    device->sweep_area = mc_balloon_sweep(host, domain, device->sweep_area);
    device->sweeping = 0;
    domain->timer_ns = (device->sweep_area ? now_ns : now_ns + WATCH_NS) +
                       WATCH_SHARE * (mc_clock_ns() - now_ns);
    __atomic_store_n(&domain->control->config[MC_BALLOON_SWEEPS], ++device->sweeps,
                     __ATOMIC_RELAXED);
}

static uint32_t count_of(const struct device *device)
{
    return (uint32_t)device->record.arg[0];
}

/* One bit for each frame of the array that is not as it was to be, hole or not; how many are. */
static int64_t answer(const struct mc_domain *domain, struct device *device, int hole)
{
    uint32_t count = count_of(device);
    int64_t done = 0;

    memset(&device->record.arg[1], 0, 4 * sizeof device->record.arg[0]);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t frame = device->pfns[i];

        if (frame < (uint64_t)domain->areas * MC_AREA_FRAMES && mc_is_hole(domain, frame) == hole)
            done++;
        else
            device->record.arg[1 + i / 64] |= 1ull << i % 64;
    }
    return done;
}

static int64_t inflate(struct mc_host *host, struct mc_domain *domain, struct device *device)
{
    uint32_t count = count_of(device), bad = 0, wrong = 0;
    uint32_t step = domain->options[MC_BALLOON_MERGE] ? count : 1;
    uint64_t refused = domain->counters.refused_dma;

    for (uint32_t i = 0; i < count && mc_phase_of(domain) == MC_ACTIVE; i += step) {
        mc_holes_make(host, domain, device->pfns + i, step, &bad);
        wrong += bad;
    }
    if (wrong > domain->counters.refused_dma - refused)
        mc_count_bad(domain);
    return answer(domain, device, 1);
}

/* An area of which the guest holds nothing yet is of no bank yet. */
static void choose_banks(struct mc_host *host, struct mc_domain *domain,
                         const struct device *device)
{
    for (uint32_t i = 0; i < count_of(device); i++) {
        uint32_t area = device->pfns[i] / MC_AREA_FRAMES, bank;

        if (area >= domain->areas || domain->hole_counts[area] != MC_AREA_FRAMES)
            continue;
        bank = mc_bank_pick(host, count_of(device), domain->banks[area]);
        if (bank == MC_NO_BANK)
            return;
        domain->banks[area] = (uint8_t)bank;
        if (host->banks[bank].node >= 0)
            mc_bind_node(domain->ram + (uint64_t)area * MC_AREA_BYTES, MC_AREA_BYTES,
                         host->banks[bank].node);
    }
}

/* Beyond its target a domain is given what is free, and nobody else's; so is one on the worker,
 * which cannot wait for its own punches. */
static void fill(struct mc_host *host, struct mc_domain *domain, struct device *device,
                 uint32_t count)
{
    uint32_t done = 0, wrong = 0, bad;
    int slack_too = 0;

    for (int tries = 0; tries <= SUPPLY_TRIES_MAX; tries++) {
        int path = MC_PATH_RING;

        choose_banks(host, domain, device);
        done += mc_holes_fill(host, domain, device->pfns + done, count - done, slack_too, &bad);
        done += bad;
        wrong += bad;
        if (done == count || device->kept ||
            domain->installed_frames + count - done > domain->target_frames ||
            mc_supply_find(host, domain, &path) || device->sweeping)
            break;              /* the lock was let go: a sweep may have begun */
        slack_too = 1;          /* what was found, or is coming, may stand in for the slack */
    }
    if (wrong)
        mc_count_bad(domain);
}

static int64_t deflate(struct mc_host *host, struct mc_domain *domain, struct device *device)
{
    uint64_t count = count_of(device), size = domain->installed_frames;
    uint64_t room = domain->target_frames > size ? domain->target_frames - size : 0;
    int64_t done;

    if (!domain->options[MC_BALLOON_OOM] && count > room)
        count = room;
    fill(host, domain, device, (uint32_t)count);
    done = answer(domain, device, 0);
    domain->counters.refused += done < count_of(device);
    return done ? done : count ? MC_ENOMEM : MC_ETARGET;
}

/* 1 when the pages of this area may go: installed, no holes to trip over, nothing pinned. */
static int may_report(struct mc_domain *domain, uint32_t frame)
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

/* What was pinned while its pages went has pages again. */
static int64_t report(struct mc_host *host, struct mc_domain *domain, struct device *device)
{
    uint32_t count = count_of(device);
    uint64_t *refused = &device->record.arg[1];
    int64_t done = 0;

    memset(refused, 0, 4 * sizeof *refused);
    for (uint32_t i = 0; i < count && mc_phase_of(domain) == MC_ACTIVE; i++) {
        uint32_t area = device->pfns[i] / MC_AREA_FRAMES;
        int failed;

        if (!may_report(domain, device->pfns[i])) {
            *refused |= 1ull << i;
            continue;
        }
        domain->users++;
        mc_host_unlock(host);
        failed = mc_punch(domain->ram_fd, (uint64_t)area * MC_AREA_BYTES, MC_AREA_BYTES);
        mc_host_lock(host);
        domain->users--;
        if (domain->pin_counts[area])
            mc_populate_write(domain->ram + (uint64_t)area * MC_AREA_BYTES, MC_AREA_BYTES);
        done += !failed;
    }
    device->reported_frames += (uint64_t)done * MC_AREA_FRAMES;
    __atomic_store_n(&domain->control->config[MC_BALLOON_REPORTED], device->reported_frames,
                     __ATOMIC_RELAXED);
    return done;
}

static int64_t act(struct mc_host *host, struct mc_domain *domain, struct device *device)
{
    switch (device->record.op) {
    case MC_OP_BALLOON_INFLATE:
        return inflate(host, domain, device);
    case MC_OP_BALLOON_DEFLATE:
        return deflate(host, domain, device);
    default:
        return report(host, domain, device);
    }
}

static int punch_array(struct mc_host *host, struct mc_domain *domain)
{
    struct device *device = domain->device;

    if (!device->kept)
        return 0;
    device->record.status = act(host, domain, device);
    device->kept = 0;
    mc_answer(host, domain, &device->record);
    return 1;
}

static int64_t request(struct mc_host *host, struct mc_domain *domain, struct mc_record *record)
{
    struct device *device = domain->device;
    uint64_t most = record->op == MC_OP_BALLOON_REPORT ? MC_BALLOON_REPORT_MAX
                                                       : MC_BALLOON_ARRAY_PFNS_MAX;

    if (record->op < MC_OP_BALLOON_INFLATE || record->op > MC_OP_BALLOON_REPORT)
        return MC_EOP;
    if (!record->arg[0] || record->arg[0] > most)
        return MC_EINDEX;
    if (device->kept)
        return MC_ESTATE;
    device->record = *record;
    memcpy(device->pfns, mc_balloon_array(domain->control), record->arg[0] * sizeof *device->pfns);
    if (record->op != MC_OP_BALLOON_DEFLATE || device->sweeping) {
        device->kept = 1;
        mc_work(host);
        return MC_LATER;
    }
    device->record.status = act(host, domain, device);
    *record = device->record;
    return record->status;
}

const struct mc_mechanism mc_balloon = {
    .name = "balloon",
    .id = MC_BALLOON,
    .granule_frames = 1,
    .options = {
        [MC_BALLOON_MERGE] = {"merge", 0, 0, 1},
        [MC_BALLOON_OOM] = {"deflate_on_oom", 0, 0, 1},
        [MC_BALLOON_REPORT_MS] = {"report_ms", 0, 0, 600000},
        [MC_BALLOON_STATS_MS] = {"stats_ms", 1000, 0, 600000},
    },
    .open = open_device,
    .boot = boot,
    .target = ask,
    .offer = offer,
    .close = close_device,
    .request = request,
    .jobs = {punch_array},
    .timer = watch,
};
