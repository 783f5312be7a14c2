/* domain.c: opens and reboots a domain, and sets its target. Main thread only. See host.h. */
#include "books.h"
#include "mechanism.h"
#include "keeper.h"
#include "reap.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define MC_REBOOT_LOOK_NS 20000000
#define MC_NAME_BYTES 32

static int domain_make_ram(struct mc_host *host, struct mc_domain *domain, uint64_t bytes)
{
    char name[MC_NAME_BYTES];
    int64_t address;
    snprintf(name, sizeof name, "memcoord-ram-%u", domain->domid);
    domain->sealed = !host->directory[0];
    domain->ram_fd = domain->sealed ? mc_memfd(name, bytes) : mc_tmpfile(host->directory, bytes);
    if (domain->ram_fd < 0)
        return MC_EKERNEL;
    address = mc_books_map_file(host, domain->ram_fd, bytes, mc_ram_place(domain));
    if (address < 0)
        return MC_EKERNEL;
    domain->ram = (uint64_t)address;
    return mc_advise_backing(domain->ram, bytes, host->backing) ? MC_EKERNEL : MC_OK;
}

static int domain_make_memory(struct mc_host *host, struct mc_domain *domain, uint32_t areas)
{
    char name[MC_NAME_BYTES];
    int64_t bytes = mc_meta_bytes(areas);
    int status;
    if (bytes < 0)
        return (int)bytes;
    domain->meta_bytes = (uint64_t)bytes;
    status = domain_make_ram(host, domain, (uint64_t)areas * MC_AREA_BYTES);
    if (status)
        return status;
    snprintf(name, sizeof name, "memcoord-meta-%u", domain->domid);
    domain->meta_fd = mc_memfd(name, domain->meta_bytes);
    domain->bell_fd = mc_eventfd(0);
    if (domain->meta_fd < 0 || domain->bell_fd < 0)
        return MC_EKERNEL;
    bytes = mc_books_map_file(host, domain->meta_fd, domain->meta_bytes,
                              mc_ram_place(domain) + MC_META_OFFSET);
    if (bytes < 0)
        return MC_EKERNEL;
    domain->meta = (uint64_t)bytes;
    return MC_OK;
}

/* Lay out meta, at first and at every reboot. Another number in `boots` tells threads of the guest
 * before the reboot that they are gone: also the 0 that they read meanwhile, beside a state that
 * would say that the domain is closed. */
static int domain_format_meta(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_control *control = (struct mc_control *)domain->meta;
    struct mc_ring *rings[2];
    int status;
    MC_CHECK_IN(domain, domain->meta_bytes == (uint64_t)mc_meta_bytes(domain->areas),
                "meta of %lu bytes for %u areas", domain->meta_bytes, domain->areas);
    memset(control, 0, domain->meta_bytes);
    status = mc_meta_format(control, domain->meta_bytes, domain->domid, domain->areas);
    if (!status)
        status = mc_meta_bind(control, domain->areas, &domain->frames, rings);
    if (status)
        return status;
    for (int i = 0; i < 2; i++) {
        mc_back_bind(&domain->rings[i], rings[i]);
        domain->rings[i].taken = &domain->taken[i];
    }
    domain->answer_count = domain->is_flushing = domain->has_again = 0;
    domain->kept_first = domain->kept_end = 0;
    memset(domain->is_unfinished, 0, sizeof domain->is_unfinished);
    domain->credit_seen = 0;
    atomic_store(&control->boots, domain->boots);
    control->mechanism = domain->mechanism->id;
    control->granule_frames = domain->granule_frames;
    control->backing = (uint32_t)host->backing;
    control->boot_areas = domain->boot_areas;
    control->credit_areas = domain->credit_areas;
    control->booked_only = domain->booked_only;
    memcpy(control->options, domain->options, sizeof control->options);
    atomic_store(&control->config_bell, domain->config_bell);
    atomic_store(&control->target_frames, domain->target_frames);
    domain->control = control;
    return MC_OK;
}

/* Bytes of all that domain_take_state takes. */
static uint64_t domain_state_bytes(const struct mc_domain *domain, uint64_t areas)
{
    uint64_t bits = areas * MC_AREA_ROWS * sizeof *domain->holes;
    return mc_slot_room(areas * sizeof *domain->states) +
           mc_slot_room(areas * sizeof *domain->banks) +
           mc_slot_room(areas * sizeof *domain->generations) +
           mc_slot_room(areas * sizeof *domain->hole_counts) +
           mc_slot_room(areas * sizeof *domain->pin_counts) +
           2 * mc_slot_room(MC_RING_SLOTS * sizeof *domain->answers) +
           mc_slot_room(MC_RING_SLOTS * sizeof *domain->asked_ns) +
           mc_slot_room(MC_LATENCY_COUNTS * sizeof *domain->serves) +
           mc_slot_room(domain->device_bytes) + 2 * mc_slot_room(bits);
}

static int domain_make_state(struct mc_host *host, struct mc_domain *domain, uint32_t areas)
{
    uint64_t bits = (uint64_t)areas * MC_AREA_ROWS * sizeof *domain->holes;
    int status = mc_slot_open(host, domain, domain_state_bytes(domain, areas));
    if (status)
        return status;
    domain->counts[MC_A_HARD] = areas;
    domain->states = mc_slot_take(domain, areas * sizeof *domain->states);
    domain->banks = mc_slot_take(domain, areas * sizeof *domain->banks);
    domain->generations = mc_slot_take(domain, areas * sizeof *domain->generations);
    domain->hole_counts = mc_slot_take(domain, areas * sizeof *domain->hole_counts);
    domain->pin_counts = mc_slot_take(domain, areas * sizeof *domain->pin_counts);
    domain->answers = mc_slot_take(domain, MC_RING_SLOTS * sizeof *domain->answers);
    domain->kept = mc_slot_take(domain, MC_RING_SLOTS * sizeof *domain->kept);
    domain->asked_ns = mc_slot_take(domain, MC_RING_SLOTS * sizeof *domain->asked_ns);
    domain->serves = mc_slot_take(domain, MC_LATENCY_COUNTS * sizeof *domain->serves);
    if (domain->device_bytes)
        domain->device = mc_slot_take(domain, domain->device_bytes);
    domain->holes = mc_slot_take(domain, bits);
    domain->pins = mc_slot_take(domain, bits);
    memset(domain->banks, MC_ANY_BANK, areas);
    return MC_OK;
}

static uint64_t domain_in_granules(const struct mc_domain *domain, uint64_t frames)
{
    uint64_t granule = domain->granule_frames;
    uint64_t limit = (uint64_t)domain->areas * MC_AREA_FRAMES;
    MC_CHECK_IN(domain, granule > 0 && granule <= limit, "granule of %lu frames", granule);
    frames = (frames + granule - 1) / granule * granule;
    return frames < limit ? frames : limit;
}

static void domain_note_target(struct mc_domain *domain, uint64_t frames)
{
    domain->target_frames = domain_in_granules(domain, frames);
    domain->target_areas =
        (uint32_t)((domain->target_frames + MC_AREA_FRAMES - 1) / MC_AREA_FRAMES);
    domain->counters.targets++;
    domain->counters.set_ns = mc_clock_ns();
    domain->counters.reached_ns = 0;
    if (domain->control)
        atomic_store(&domain->control->target_frames, domain->target_frames);
}

/* Under the lock. Memory that the domain boots with counts neither as grants nor as growth. */
static int domain_boot(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_domain_counters before;
    uint32_t areas = 0;
    int status;
    for (int state = 0; state < MC_A_STATES; state++)
        areas += domain->counts[state];
    MC_CHECK_IN(domain, areas == domain->areas, "%u areas are counted of %u", areas, domain->areas);
    before = domain->counters;
    status = domain->mechanism->boot ? domain->mechanism->boot(host, domain)
                                     : mc_boot_populated(host, domain);
    MC_CHECK_LOCKED(host);
    domain->counters = before;
    domain->growing = 0;
    return status || !domain->broken_status ? status : -(int)domain->broken_status;
}

static void domain_check_options(const struct mc_domain *domain)
{
    for (int i = 0; i < MC_OPTIONS_MAX; i++) {
        const struct mc_option *option = &domain->mechanism->options[i];
        uint64_t value = domain->options[i];
        /* An option that the mechanism has not is 0, like its bounds. */
        MC_CHECK_IN(domain, value >= option->least && value <= option->most,
                    "option %d of %s is %lu, of %lu to %lu", i, domain->mechanism->name, value,
                    option->least, option->most);
    }
}

static int domain_prepare(struct mc_host *host, struct mc_domain *domain,
                          const struct mc_domain_spec *spec)
{
    int status;
    MC_CHECK(!domain->states && !domain->device && !domain->users && !domain->broken_status,
             "domain %u: opened with %u users, status %u, or memory of the domain before",
             domain->domid, domain->users, domain->broken_status);
    domain->areas = spec->areas;
    domain->boots = 1;
    domain->boot_areas = spec->boot_areas;
    domain->credit_areas = spec->credit_areas;
    domain->relayed = spec->relayed;
    domain->booked_only = spec->booked_only;
    domain->mechanism = mc_mechanism(spec->mechanism);
    domain->mechanism_id = spec->mechanism;
    domain->device_bytes = (uint32_t)domain->mechanism->device_bytes;
    domain->granule_frames = domain->mechanism->granule_frames;
    memcpy(domain->options, spec->options, sizeof domain->options);
    domain_check_options(domain);
    MC_CHECK_IN(domain, !mc_is_locked(host), "thread %lu opens it under the lock", pthread_self());
    status = domain_make_memory(host, domain, spec->areas);
    if (!status)
        status = domain_make_state(host, domain, spec->areas);
    pthread_mutex_lock(&host->own->doors);
    if (!status && domain->mechanism->open)
        status = domain->mechanism->open(host, domain);
    pthread_mutex_unlock(&host->own->doors);
    MC_CHECK_IN(domain, domain->boot_areas <= domain->areas, "%s boots with %u areas of %u",
                domain->mechanism->name, domain->boot_areas, domain->areas);
    if (!status) {
        domain_note_target(domain, spec->target_frames);
        status = domain_format_meta(host, domain);
    }
    return status;
}

static void domain_activate(struct mc_host *host, struct mc_domain *domain)
{
    MC_CHECK_IN(domain, domain->control && !(mc_attached(host) >> domain->domid & 1),
                "made active twice, attached %lx", mc_attached(host));
    mc_phase_set(domain, MC_ACTIVE);
    __atomic_fetch_or(&host->attached, 1ull << domain->domid, __ATOMIC_RELEASE);
    if (domain->mechanism->offer)
        domain->mechanism->offer(host, domain);
    MC_CHECK_LOCKED(host);
    mc_reach_note(host, domain);
    mc_work(host, domain);
}

int mc_domain_open(struct mc_host *host, uint32_t domid, const struct mc_domain_spec *spec)
{
    struct mc_domain *domain;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u32 = domid};
    int status;
    if (domid >= MC_MAX_DOMAINS || !spec->areas || spec->areas > MC_MAX_AREAS ||
        (uint64_t)spec->boot_areas * MC_AREA_FRAMES > spec->target_frames ||
        spec->target_frames > (uint64_t)spec->areas * MC_AREA_FRAMES ||
        !mc_mechanism(spec->mechanism))
        return MC_EINDEX;
    MC_CHECK(!host->tmem.execute || (host->tmem.grow && host->tmem.shrink &&
                                     host->tmem.open_client && host->tmem.close_client),
             "domain %u: tmem of %u slab areas lacks a function", domid, host->tmem.slab_areas);
    domain = &host->domains[domid];
    if (mc_phase_of(domain) != MC_EMPTY)
        return MC_ESTATE;
    domain->ram_fd = domain->meta_fd = domain->bell_fd = -1;
    status = domain_prepare(host, domain, spec);
    if (status) {
        mc_domain_dismantle(host, domain);
        return status;
    }
    mc_host_lock(host);
    status = domain_boot(host, domain);
    mc_host_unlock(host);
    if (!status && epoll_ctl(host->epoll_fd, EPOLL_CTL_ADD, domain->bell_fd, &event))
        status = MC_EKERNEL;
    mc_host_lock(host);
    if (!status && host->tmem.open_client)
        status = (int)host->tmem.open_client(host->tmem.state, domid);
    if (!status)
        status = mc_keeper_start(host, domain);
    if (!status)
        domain_activate(host, domain);
    mc_host_unlock(host);
    if (status) {
        mc_host_lock(host);
        mc_forget_all(host, domain);    /* nobody has the file yet: its pages go with it */
        mc_host_unlock(host);
        mc_domain_dismantle(host, domain);
        return status;
    }
    atomic_store(&domain->control->state, MC_STATE_OPEN);
    mc_eventfd_ring(host->kick_fd);
    return MC_OK;
}

/* Areas with pinned frames stayed the guest's, but their words were formatted: grant them again. */
static void domain_restore_pinned(struct mc_domain *domain)
{
    for (uint32_t area = 0; area < domain->areas; area++)
        if (domain->states[area] != MC_A_HARD && domain->states[area] != MC_A_PUNCH_HARD) {
            MC_CHECK(domain->states[area] == MC_A_INSTALLED && domain->pin_counts[area],
                     "domain %u, area %u: state %u, %u pins after a reboot", domain->domid, area,
                     domain->states[area], domain->pin_counts[area]);
            mc_area_grant(&domain->frames, area, domain->generations[area]);
        }
}

/* Keeper: punch what was condemned, then boot. Under the lock, which it releases. */
static int domain_boot_again(struct mc_host *host, struct mc_domain *domain)
{
    uint64_t until_ns = mc_clock_ns() + MC_REBOOT_NS_MAX;
    MC_CHECK_LOCKED(host);
    while (mc_is_punch_due(domain) && mc_clock_ns() < until_ns && mc_phase_of(domain) != MC_BROKEN)
        if (!mc_punch_own(host, domain))
            mc_wait_done(host, MC_REBOOT_LOOK_NS);
    if (mc_is_punch_due(domain) || mc_phase_of(domain) == MC_BROKEN)
        return MC_ETIMEOUT;
    return domain_boot(host, domain);
}

/* Under the lock: take all but the pinned areas, and boot. */
static int domain_restart(struct mc_host *host, struct mc_domain *domain)
{
    int status;
    MC_CHECK_LOCKED(host);
    domain->is_unbooted = 1;
    mc_condemn_all(host, domain, 1);
    domain->config_bell++;      /* voids whatever the guest before said of its configuration */
    status = domain_format_meta(host, domain);
    if (!status) {
        domain_restore_pinned(domain);
        status = mc_errand(host, domain, domain_boot_again, MC_REBOOT_NS_MAX);
    }
    domain->is_unbooted = status != MC_OK;
    if (!status && host->tmem.open_client)
        status = (int)host->tmem.open_client(host->tmem.state, domain->domid);
    return status;
}

/* From here on the reboot is to be carried out, by whoever goes on with the books. */
static void domain_begin_reboot(struct mc_domain *domain)
{
    domain->boots++;
    MC_BOOKED();
    domain->is_rebooting = 1;
    MC_BOOKED();
}

int mc_domain_reboot(struct mc_host *host, uint32_t domid)
{
    int status;
    struct mc_domain *domain = mc_domain_at(host, domid, &status);
    if (status)
        return status;
    if (mc_phase_of(domain) != MC_ACTIVE &&
        (mc_phase_of(domain) == MC_BROKEN || domain->leaving || !domain->is_rebooting))
        return MC_ESTATE;
    mc_host_lock(host);
    domain_begin_reboot(domain);
    status = mc_domain_quiesce(host, domain, MC_REBOOT_NS_MAX);
    if (!status) {
        mc_domain_detach(host, domain);
        domain->broken_status = 0;
        status = domain_restart(host, domain);
        domain_note_target(domain, domain->target_frames);
        domain_activate(host, domain);
    }
    if (status)                 /* without its boot memory: the main thread is to close it */
        mc_phase_set(domain, MC_BROKEN);
    domain->broken_status = (uint32_t)-status;
    MC_BOOKED();
    domain->is_rebooting = 0;
    MC_BOOKED();
    atomic_store(&domain->control->state, status ? MC_STATE_BROKEN : MC_STATE_OPEN);
    mc_host_unlock(host);
    mc_eventfd_ring(status ? host->event_fd : host->kick_fd);
    return status;
}

void mc_host_promise(struct mc_host *host, uint64_t frames)
{
    MC_CHECK(frames % MC_AREA_FRAMES == 0, "promised %lu frames, no whole areas", frames);
    mc_host_lock(host);
    host->promised_frames = frames;
    mc_work_hungry(host);
    mc_host_unlock(host);
}

int mc_domain_set_target(struct mc_host *host, uint32_t domid, uint64_t target_frames)
{
    int status;
    struct mc_domain *domain = mc_domain_at(host, domid, &status);
    if (status)
        return status;
    if (target_frames > mc_maxmem_frames(domain))
        return MC_EINDEX;
    if (mc_phase_of(domain) != MC_ACTIVE)       /* broken meanwhile: about to be closed */
        return MC_OK;
    mc_host_lock(host);
    domain_note_target(domain, target_frames);
    if (domain->mechanism->target)
        domain->mechanism->target(host, domain);
    MC_CHECK_LOCKED(host);
    mc_reach_note(host, domain);
    mc_work(host, domain);
    mc_host_unlock(host);
    return MC_OK;
}

int mc_domain_reach(struct mc_host *host, uint32_t domid, enum mc_reach *reach, enum mc_why *why)
{
    int status;
    struct mc_domain *domain = mc_domain_at(host, domid, &status);
    if (status)
        return status;
    mc_host_lock(host);
    *reach = mc_reach_note(host, domain);
    *why = domain->why;
    mc_host_unlock(host);
    return MC_OK;
}

uint64_t mc_domain_size(struct mc_host *host, uint32_t domid)
{
    int status;
    struct mc_domain *domain = mc_domain_at(host, domid, &status);
    uint64_t frames;
    if (status)
        return 0;
    mc_host_lock(host);
    frames = mc_size(domain);
    mc_host_unlock(host);
    return frames;
}
