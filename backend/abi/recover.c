/* recover.c: makes the host in the books this process's own. See recover.h. */
#include "recover.h"
#include "books.h"

#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static const struct mc_domain_fds *recover_fds_of(const struct mc_domain_fds *fds, uint32_t count,
                                                  uint32_t domid)
{
    for (uint32_t i = 0; i < count; i++)
        if (fds[i].domid == domid)
            return &fds[i];
    return NULL;
}

/* 1 when there is something to go on with: the domain was open, and its fds are here. */
static int recover_has(const struct mc_domain *domain, const struct mc_domain_fds *fds)
{
    return domain->phase != MC_EMPTY && domain->states && domain->areas && fds;
}

/* Neither was it open, or nobody has its memory: it died with the process before. */
static void recover_forget(struct mc_domain *domain)
{
    uint32_t domid = domain->domid;
    __atomic_store_n(&domain->phase, MC_EMPTY, __ATOMIC_RELEASE);
    MC_BOOKED();
    memset(domain, 0, sizeof *domain);
    domain->domid = domid;
}

/* 1 when this program has all that the books are of. */
static int recover_may_read(const struct mc_host *host, const struct mc_domain_fds *fds,
                            uint32_t count)
{
    for (uint32_t domid = 0; domid < MC_MAX_DOMAINS; domid++) {
        const struct mc_domain *domain = &host->domains[domid];
        const struct mc_mechanism *mechanism = mc_mechanism(domain->mechanism_id);
        if (recover_has(domain, recover_fds_of(fds, count, domid)) &&
            (!mechanism || mechanism->device_bytes != domain->device_bytes))
            return 0;
    }
    return 1;
}

static int recover_map(struct mc_host *host, struct mc_domain *domain,
                       const struct mc_domain_fds *fds)
{
    uint64_t place = mc_ram_place(domain);
    struct mc_ring *rings[MC_RINGS];
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u32 = domain->domid};
    MC_CHECK_IN(domain, fds->domid == domain->domid, "gets the fds of domain %u", fds->domid);
    if (mc_books_map_file(host, fds->ram_fd, (uint64_t)domain->areas * MC_AREA_BYTES, place) < 0 ||
        mc_books_map_file(host, fds->meta_fd, domain->meta_bytes, place + MC_META_OFFSET) < 0)
        return MC_EKERNEL;
    domain->ram = place;
    domain->meta = place + MC_META_OFFSET;
    if (mc_advise_backing(domain->ram, (uint64_t)domain->areas * MC_AREA_BYTES, host->backing) ||
        epoll_ctl(host->epoll_fd, EPOLL_CTL_ADD, fds->bell_fd, &event))
        return MC_EKERNEL;
    domain->ram_fd = fds->ram_fd;
    domain->meta_fd = fds->meta_fd;
    domain->bell_fd = fds->bell_fd;
    domain->control = (struct mc_control *)domain->meta;
    if (mc_meta_bind(domain->control, domain->areas, &domain->frames, rings))
        return MC_EBROKEN;
    for (int i = 0; i < MC_RINGS; i++)
        domain->rings[i].ring = rings[i];
    return MC_OK;
}

/* What the process before had of its own in the domain. One that was being closed goes on so. One
 * that was being rebooted is served by nobody until the main thread has rebooted it: of its rings
 * and of its mechanism's device nothing is left then. */
static void recover_phase(struct mc_domain *domain)
{
    enum mc_phase phase = mc_phase_of(domain);
    domain->mechanism = mc_mechanism(domain->mechanism_id);
    MC_CHECK_IN(domain, domain->mechanism && domain->leaving <= 2, "mechanism %u, leaving %u",
                domain->mechanism_id, domain->leaving);
    domain->users = domain->is_kept = domain->is_hungry = 0;
    domain->file_ns = domain->supply_until_ns = 0;
    domain->errand = NULL;
    domain->errand_runs = 0;
    if (domain->leaving) {
        domain->leaving = 1;            /* nothing is lost by condemning its areas twice */
        phase = MC_CLOSING;
    } else if (domain->is_rebooting && phase != MC_BROKEN) {
        domain->is_unbooted = 1;
        phase = MC_CLOSING;
    } else if (phase != MC_ACTIVE && phase != MC_BROKEN) {
        domain->broken_status = domain->broken_status ? domain->broken_status
                                                      : (uint32_t)-MC_EGONE;
        phase = MC_BROKEN;
    }
    __atomic_store_n(&domain->phase, (uint32_t)phase, __ATOMIC_RELEASE);
}

/* Records that were left to the keeper; the oldest may be half done, or answered. */
static uint32_t recover_kept(struct mc_domain *domain)
{
    if (mc_kept_count(domain) && mc_kept_count(domain) <= MC_RING_SLOTS &&
        !mc_keep_again(domain, &domain->kept[domain->kept_first % MC_RING_SLOTS]))
        domain->kept_first++;
    return mc_kept_count(domain);
}

/* Answers that the process before had written into the ring, and not taken off the list. */
static void recover_answers(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t pushed = domain->rings[MC_RING_MEMORY].rsp_prod - domain->flushed_from;
    uint32_t left = domain->answer_count;
    if (!MC_CHECK_DOMAIN(host, domain, left <= MC_RING_SLOTS, "%u answers wait", left) ||
        !domain->is_flushing)
        return;
    pushed = pushed < left ? pushed : left;
    for (uint32_t i = pushed; i < left; i++)
        domain->answers[i - pushed] = domain->answers[i];
    domain->answer_count = left - pushed;
    MC_BOOKED();
    domain->is_flushing = 0;
}

/* The record in service, by its copy; a NOP has none, and is in the ring as it was. */
static struct mc_record recover_taken(const struct mc_domain *domain, enum mc_ring_id ring)
{
    const struct mc_back *back = &domain->rings[ring];
    struct mc_record record = domain->taken[ring];
    if (record.seq == back->req_cons - 1 && record.op)
        return record;
    record = back->ring->slots[(back->req_cons - 1) % MC_RING_SLOTS];
    record.seq = back->req_cons - 1;
    record.status = 0;
    return record;
}

/* Publish what is answered. A record in service, if there is one, is executed again: 1. A status
 * when the indices contradict the records kept. */
static int recover_ring(struct mc_domain *domain, enum mc_ring_id ring, uint32_t kept)
{
    struct mc_back *back = &domain->rings[ring];
    uint32_t open = back->req_cons - back->rsp_prod - kept - (domain->is_unfinished[ring] != 0);
    if (open > 1)
        return MC_EBROKEN;
    if (open) {
        domain->unfinished[ring] = recover_taken(domain, ring);
        mc_note_again(domain, ring == MC_RING_TMEM ? MC_AGAIN_TMEM : MC_AGAIN_MEMORY,
                      &domain->unfinished[ring]);
        MC_BOOKED();
        domain->is_unfinished[ring] = 1;
    }
    back->rsp_published = back->rsp_prod;
    atomic_store(&back->ring->rsp_prod, back->rsp_prod);
    return (int)open;
}

static void recover_rings(struct mc_host *host, struct mc_domain *domain,
                          struct mc_recovery *report)
{
    int64_t kept = 0;
    int again[MC_RINGS];
    recover_answers(host, domain);
    if (domain->mechanism->recover)
        kept = domain->mechanism->recover(host, domain);
    MC_CHECK_LOCKED(host);
    if (!MC_CHECK_DOMAIN(host, domain, kept <= MC_RING_SLOTS, "%ld records are kept", kept))
        kept = MC_EBROKEN;
    if (kept >= 0)
        kept += domain->answer_count + recover_kept(domain);
    again[MC_RING_MEMORY] = kept < 0 ? (int)kept
                                     : recover_ring(domain, MC_RING_MEMORY, (uint32_t)kept);
    again[MC_RING_TMEM] = recover_ring(domain, MC_RING_TMEM, 0);
    for (int i = 0; i < MC_RINGS; i++)
        if (again[i] < 0)
            mc_domain_break(host, domain, again[i]);
        else
            report->again += (uint32_t)again[i];
}

/* The domain is served as before: tell its guest, whose bell may have been lost. */
static void recover_offer(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_control *control = domain->control;
    MC_CHECK_IN(domain, domain->target_frames <= mc_maxmem_frames(domain),
                "goes on to %lu frames of %lu", domain->target_frames, mc_maxmem_frames(domain));
    atomic_store(&control->target_frames, domain->target_frames);
    if (domain->mechanism->target)
        domain->mechanism->target(host, domain);
    MC_CHECK_LOCKED(host);
    mc_show_current(domain);
    mc_reach_note(host, domain);
    mc_guest_ring(host, domain);
    mc_bell_ring((uint32_t *)&control->credit_bell, (uint32_t *)&control->credit_waiters);
}

static int recover_domains(struct mc_host *host, const struct mc_domain_fds *fds, uint32_t count,
                           struct mc_recovery *report)
{
    int status = MC_OK;
    for (uint32_t domid = 0; domid < MC_MAX_DOMAINS && !status; domid++) {
        struct mc_domain *domain = &host->domains[domid];
        const struct mc_domain_fds *own = recover_fds_of(fds, count, domid);
        int64_t due;
        MC_CHECK(domain->domid == domid, "domain %u lies at %u", domain->domid, domid);
        if (!recover_has(domain, own)) {
            recover_forget(domain);
            report->gone |= own ? 1ull << domid : 0;
            continue;
        }
        status = recover_map(host, domain, own);
        if (status)
            break;
        recover_phase(domain);
        due = mc_recount_areas(host, domain);
        status = due < 0 ? (int)due : MC_OK;
        report->due += due < 0 ? 0 : (uint32_t)due;
        report->kept |= 1ull << domid;
    }
    if (status)
        return status;
    host->step.domain = 0;      /* of a domain that is no more */
    return mc_recount_sums(host);
}

/* No pointer of the process before may outlive this, whatever state the domain is in. */
static void recover_threads(struct mc_host *host, struct mc_domain *domain)
{
    MC_CHECK_LOCKED(host);
    int status = domain->mechanism->rejoin ? domain->mechanism->rejoin(host, domain) : MC_OK;
    if (status)
        mc_domain_break(host, domain, status);
}

static void recover_serve(struct mc_host *host, struct mc_recovery *report)
{
    struct mc_domain *domain;
    MC_CHECK(!(report->kept & report->gone), "domains %lx go on, %lx are gone", report->kept,
             report->gone);
    __atomic_store_n(&host->attached, report->kept, __ATOMIC_RELEASE);
    for (uint64_t mask = report->kept; (domain = mc_next(host, &mask));)
        recover_threads(host, domain);
    for (uint64_t mask = report->kept; (domain = mc_next(host, &mask));)
        if (!domain->is_rebooting)
            recover_rings(host, domain, report);
    for (uint64_t mask = report->kept; (domain = mc_next(host, &mask));)
        if (mc_phase_of(domain) == MC_ACTIVE)
            recover_offer(host, domain);
    for (uint64_t mask = report->kept; (domain = mc_next(host, &mask));)
        if (mc_phase_of(domain) == MC_BROKEN) {
            atomic_store(&domain->control->state, MC_STATE_BROKEN);
            mc_eventfd_ring(host->event_fd);
        }
}

/* What the process before had of its own. */
static int recover_private(struct mc_host *host, int books_fd)
{
    const struct mc_tmem_hooks none = {.slab_areas = host->tmem.slab_areas};
    MC_CHECK(none.slab_areas <= MC_BOOKS_SLAB_AREAS_MAX, "books of %u slab areas", none.slab_areas);
    host->epoll_fd = host->kick_fd = host->event_fd = host->relay_fd = -1;
    host->stop = host->service_running = host->worker_running = 0;
    host->relay_mask = host->attached = 0;
    host->tmem = none;
    host->own = mc_host_open_private(books_fd);
    return host->own ? mc_host_open_fds(host) : MC_ENOMEM;
}

/* Leave the books as they are, for another try. */
static void recover_undo(struct mc_host *host)
{
    for (uint32_t domid = 0; domid < MC_MAX_DOMAINS; domid++) {
        struct mc_domain *domain = &host->domains[domid];
        mc_unmap(mc_ram_place(domain), MC_DOMAIN_STRIDE);
    }
    host->attached = 0;
    mc_host_close(host);
}

int mc_host_recover(struct mc_host **out, int books_fd, const struct mc_domain_fds *fds,
                    uint32_t count, struct mc_recovery *report)
{
    int64_t address = mc_books_map(books_fd);
    const struct mc_books *head = (const struct mc_books *)address;
    struct mc_host *host = (struct mc_host *)(address + MC_BOOKS_HOST_OFFSET);
    int status;
    MC_CHECK(count <= MC_MAX_DOMAINS, "fds of %u domains", count);
    *out = NULL;
    memset(report, 0, sizeof *report);
    if (address < 0)
        return MC_EKERNEL;
    if (head->magic != MC_BOOKS_MAGIC || head->layout != mc_books_layout() ||
        head->bytes != MC_BOOKS_BYTES || !recover_may_read(host, fds, count)) {
        mc_unmap(MC_BOOKS_ADDRESS, MC_BOOKS_BYTES);
        return MC_ELAYOUT;
    }
    status = recover_private(host, books_fd);
    if (!status) {
        mc_host_lock(host);
        status = recover_domains(host, fds, count, report);
        if (!status)
            recover_serve(host, report);
        mc_host_unlock(host);
    }
    if (status) {
        recover_undo(host);
        return status;
    }
    *out = host;
    return MC_OK;
}

int mc_tmem_recover(struct mc_host *host, const uint8_t *held)
{
    int status = MC_OK;
    MC_CHECK(!host->service_running, "tmem recovers under %u service thread",
             host->service_running);
    MC_CHECK(host->slab_used, "tmem of %u slab areas has no books", host->tmem.slab_areas);
    mc_host_lock(host);
    for (uint32_t area = 0; area < host->tmem.slab_areas; area++) {
        if (held[area] && !host->slab_used[area])
            status = MC_EBROKEN;
        if (!held[area] && host->slab_used[area])
            mc_tmem_discharge(host, area);
    }
    mc_host_unlock(host);
    return status;
}
