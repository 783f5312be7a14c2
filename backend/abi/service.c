/* service.c: the service thread serves both rings of every domain. See host.h, ring.h, ops.h.
 *
 * One thread, so the tmem pool and the order of requests need no more than the host lock:
 *   1. visit every active domain: at most MC_VISIT_RECORDS_MAX records per ring. On the memory ring
 *      no record is begun after MC_VISIT_NS_MAX. Then publish the responses and ring the guest's
 *      bell if the guest sleeps. After all domains, wake the keepers that have something to do.
 *   2. no record anywhere: spin for the current budget, looking again.
 *   3. still none: arm every ring, look once more, sleep in epoll.
 * The spin budget doubles when a request comes within the longest spin of the last one and halves
 * when a spin was in vain, so that an idle host burns no CPU. The longest is spin_ns. After a
 * record of tmem it is MC_PAGE_SPINS times that: a program waits for each page and soon wants the
 * next. Not for a while when something else has run on this CPU meanwhile (as KVM's halt polling:
 * Documentation/virt/kvm/halt-polling.rst).
 * A record is copied out of the ring before it is looked at; frame and area numbers are checked
 * against the private state. A domain whose ring is broken, or that spent its error budget, is
 * marked BROKEN, served no more, and reported to the main thread.
 */
#include "books.h"
#include "latency.h"
#include "mechanism.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#define MC_VISIT_RECORDS_MAX 64
#define MC_EPOLL_EVENTS_MAX 16
#define MC_EPOLL_TIMEOUT_MS 100
#define MC_SPIN_BUDGET_MIN_NS 500
#define MC_PAGE_SPINS 10
#define MC_AWAY_NS 50000            /* between two looks: this thread had no CPU */
#define MC_SHARED_NS 2000000        /* so long its CPU counts as shared then */

struct service_wait {               /* for the next record */
    uint64_t budget_ns;
    uint64_t idle_since_ns;         /* 0 when the last round served something */
    uint64_t looked_ns;
    uint64_t shared_until_ns;
    int for_page;                   /* the last record was tmem's */
};

static enum mc_served service_memory(struct mc_host *host, struct mc_domain *domain,
                                     struct mc_record *record)
{
    enum mc_served served;
    if (record->op == MC_OP_NOP)
        return mc_answered(record, MC_OK);
    if (!domain->mechanism->request)
        return mc_answered(record, MC_EOP);
    served = domain->mechanism->request(host, domain, record);
    MC_CHECK_LOCKED(host);
    MC_CHECK(served <= MC_UNFINISHED, "domain %u, op %u: outcome %d", domain->domid, record->op,
             served);
    return served;
}

/* Give tmem one slab area more, if it may have one. */
static void service_grow_tmem(struct mc_host *host)
{
    uint32_t area = 0;
    MC_CHECK(host->slab_used && host->tmem_frames % MC_AREA_FRAMES == 0,
             "tmem has %lu frames of %u slab areas", host->tmem_frames, host->tmem.slab_areas);
    if (!mc_has_free(host, MC_AREA_FRAMES) ||
        host->tmem_frames >= (uint64_t)host->tmem_areas_max * MC_AREA_FRAMES)
        return;
    while (area < host->tmem.slab_areas && host->slab_used[area])
        area++;
    MC_CHECK(area < host->tmem.slab_areas, "tmem has %lu frames, yet all %u slab areas are used",
             host->tmem_frames, host->tmem.slab_areas);
    uint64_t address = host->tmem.slab + (uint64_t)area * MC_AREA_BYTES;
    /* Into small pages a put takes a third longer. */
    if (host->tmem.is_slab_shared && mc_populate_huge(address, MC_AREA_BYTES) < 0) {
        mc_discard(address, MC_AREA_BYTES);
        return;
    }
    if (host->tmem.grow(host->tmem.state, area) >= 0)
        mc_tmem_charge(host, area);
    MC_CHECK_LOCKED(host);
}

/* The status of the answer. */
static int64_t service_tmem(struct mc_host *host, struct mc_domain *domain,
                            struct mc_record *record)
{
    uint64_t page = 0, frame = record->arg[4];
    int64_t status, how = mc_is_again(domain, MC_AGAIN_TMEM, record) ? MC_TMEM_AGAIN : 0;
    if (!host->tmem.execute || record->op < MC_OP_PUT || record->op > MC_OP_DESTROY_POOL)
        return MC_TMEM_BAD + MC_EOP;
    if (record->op == MC_OP_PUT || record->op == MC_OP_GET) {
        if (frame >= mc_maxmem_frames(domain))
            return MC_TMEM_BAD + MC_EINDEX;
        if (domain->states[frame / MC_AREA_FRAMES] != MC_A_INSTALLED || mc_is_hole(domain, frame))
            return MC_TMEM_BAD + MC_EFOREIGN;
        if (!domain->sealed)    /* a guest that shrinks its file would have us killed here */
            return MC_TMEM_BAD + MC_EPERM;
        page = domain->ram + (frame << MC_FRAME_SHIFT);
    }
    status = host->tmem.execute(host->tmem.state, (uint64_t)record, page, domain->domid,
                                MC_TMEM_MAY_ASK | how);
    if (status == MC_NEED_SLAB) {
        service_grow_tmem(host);
        status = host->tmem.execute(host->tmem.state, (uint64_t)record, page, domain->domid, how);
        MC_CHECK_IN(domain, status != MC_NEED_SLAB, "tmem asks a second time, status %ld", status);
    }
    return status;
}

/* 1 for an answer to a request that no correct guest sends. */
static int service_is_bad(enum mc_ring_id ring, int64_t status)
{
    if (ring == MC_RING_TMEM)
        return status <= MC_TMEM_BAD;
    return status == MC_EINDEX || status == MC_EOP || status == MC_EFOREIGN || status == MC_ESTATE;
}

static void service_publish(struct mc_host *host, struct mc_domain *domain, enum mc_ring_id ring)
{
    if (!mc_back_publish(&domain->rings[ring]))
        return;
    domain->counters.wakes++;
    mc_guest_ring(host, domain);
}

uint64_t mc_relay_take(struct mc_host *host)
{
    return __atomic_exchange_n(&host->relay_mask, 0, __ATOMIC_ACQ_REL);
}

/* A GROW was taken from the ring; this times it until its answer, whichever thread that is from. */
static void service_note_asked(struct mc_domain *domain, const struct mc_record *record)
{
    MC_CHECK_IN(domain, domain->asked_ns && domain->serves, "its requests cannot be timed");
    if (record->op == MC_OP_GROW)
        domain->asked_ns[record->seq % MC_RING_SLOTS] = mc_clock_ns();
}

static void service_note_answer(struct mc_domain *domain, const struct mc_record *record)
{
    uint64_t *asked_ns = &domain->asked_ns[record->seq % MC_RING_SLOTS];
    if (record->op != MC_OP_GROW || !*asked_ns)
        return;
    if (record->status > 0)
        mc_latency_note(domain->serves, record->arg[0], mc_clock_ns() - *asked_ns);
    *asked_ns = 0;
}

/* The record that the visit before left, or a copy of the next in the ring. As mc_back_pop. */
static int service_next(struct mc_domain *domain, enum mc_ring_id ring, struct mc_record *record)
{
    int got = 1;
    if (domain->is_unfinished[ring]) {
        domain->taken[ring] = domain->unfinished[ring];
        MC_BOOKED();
        domain->is_unfinished[ring] = 0;
        *record = domain->taken[ring];
        return got;
    }
    got = mc_back_pop(&domain->rings[ring], record);
    record->status = 0;
    domain->counters.requests += got > 0;
    if (got > 0 && ring == MC_RING_MEMORY)
        service_note_asked(domain, record);
    return got;
}

/* 1 when a guest has had its turn: one that asks for much all the time gets a turn like the others.
 * The clock is read only before requests that may take long. */
static int service_turn_is_over(uint64_t *since_ns)
{
    uint64_t now_ns = mc_clock_ns();
    *since_ns = *since_ns ? *since_ns : now_ns;
    return now_ns - *since_ns > MC_VISIT_NS_MAX;
}

static enum mc_served service_record(struct mc_host *host, struct mc_domain *domain,
                                     enum mc_ring_id ring, struct mc_record *record,
                                     uint64_t *since_ns)
{
    if (ring == MC_RING_TMEM)
        return mc_answered(record, service_tmem(host, domain, record));
    if (record->op != MC_OP_NOP && service_turn_is_over(since_ns))
        return MC_UNFINISHED;
    return service_memory(host, domain, record);
}

/* Serve the records that wait in one ring, and count them in *served. 0, or a status that breaks
 * the domain. */
static int service_ring(struct mc_host *host, struct mc_domain *domain, enum mc_ring_id ring,
                        int *served)
{
    struct mc_record record;
    uint64_t since_ns = 0;
    int done = 0, got = mc_back_pending(&domain->rings[ring]);
    if (got < 0 || (!got && !domain->is_unfinished[ring]))
        return got;
    /* One hold for the visit: a locked instruction per record would wait each time for a page of
     * tmem that is still on its way to memory (tmem/slab.py). */
    mc_host_lock(host);
    while (done < MC_VISIT_RECORDS_MAX && (got = service_next(domain, ring, &record)) > 0) {
        enum mc_served outcome = service_record(host, domain, ring, &record, &since_ns);
        if (outcome == MC_UNFINISHED) {
            domain->unfinished[ring] = record;
            MC_BOOKED();
            domain->is_unfinished[ring] = 1;
            break;
        }
        done++;
        if (outcome == MC_KEPT)
            continue;
        if (ring == MC_RING_MEMORY)
            service_note_answer(domain, &record);
        if (service_is_bad(ring, record.status))
            mc_count_bad(domain);
        if (mc_back_push(&domain->rings[ring], &record)) {
            got = MC_ERUNAWAY;
            break;
        }
    }
    if (ring == MC_RING_MEMORY)
        mc_reach_note(host, domain);
    mc_host_unlock(host);
    if (done)
        service_publish(host, domain, ring);
    *served += done;
    return got < 0 ? got : MC_OK;
}

/* Publish the answers that mechanisms gave to records they had kept, and count them in *served. 0,
 * or a status that breaks the domain. */
static int service_answers(struct mc_host *host, struct mc_domain *domain, int *served)
{
    int status = MC_OK;
    uint32_t count;
    if (!__atomic_load_n(&domain->answer_count, __ATOMIC_ACQUIRE))
        return MC_OK;
    mc_host_lock(host);
    count = domain->answer_count;
    if (!MC_CHECK_DOMAIN(host, domain, count <= MC_RING_SLOTS, "%u answers wait", count))
        count = 0;
    domain->flushed_from = domain->rings[MC_RING_MEMORY].rsp_prod;
    MC_BOOKED();
    domain->is_flushing = 1;
    for (uint32_t i = 0; i < count; i++) {
        service_note_answer(domain, &domain->answers[i]);
        if (service_is_bad(MC_RING_MEMORY, domain->answers[i].status))
            mc_count_bad(domain);
        status |= mc_back_push(&domain->rings[MC_RING_MEMORY], &domain->answers[i]);
    }
    MC_BOOKED();
    domain->answer_count = 0;
    MC_BOOKED();
    domain->is_flushing = 0;
    mc_reach_note(host, domain);
    mc_host_unlock(host);
    service_publish(host, domain, MC_RING_MEMORY);
    *served += (int)count;
    return status ? MC_ERUNAWAY : MC_OK;
}

static void service_note_credit(struct mc_host *host, struct mc_domain *domain)
{
    uint64_t taken = atomic_load_explicit(&domain->control->credit_taken, memory_order_relaxed);
    if (taken == domain->credit_seen)
        return;
    domain->credit_seen = taken;
    mc_host_lock(host);         /* the keeper has looked, or sees it now */
    mc_work(host, domain);
    mc_host_unlock(host);
}

/* How many records were served. */
static int service_visit(struct mc_host *host, struct mc_domain *domain, struct service_wait *wait)
{
    int served = 0, others, status;
    MC_CHECK_IN(domain, domain->control && domain->mechanism, "visited without control");
    status = service_ring(host, domain, MC_RING_MEMORY, &served);
    others = served;
    if (!status)
        status = service_ring(host, domain, MC_RING_TMEM, &served);
    if (served)
        wait->for_page = served > others;
    if (!status)
        status = service_answers(host, domain, &served);
    if (!status && __atomic_load_n(&domain->counters.bad_requests, __ATOMIC_RELAXED) >
                       host->error_budget)
        status = MC_EPERM;
    if (status) {
        mc_domain_break(host, domain, status);
        return 0;
    }
    service_note_credit(host, domain);
    return served;
}

static int service_visit_all(struct mc_host *host, struct service_wait *wait)
{
    struct mc_domain *domain;
    int served = 0;
    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));) {
        enum mc_phase phase = mc_phase_of(domain);
        MC_CHECK_IN(domain, phase <= MC_BROKEN, "phase %d", phase);
        if (phase == MC_ACTIVE) {
            served += service_visit(host, domain, wait);
        } else if (phase == MC_CLOSING) {
            mc_host_lock(host);
            if (mc_phase_of(domain) == MC_CLOSING)
                mc_phase_set(domain, MC_QUIESCED);
            mc_tell_done(host);
            mc_host_unlock(host);
        }
    }
    mc_work_now(host);
    return served;
}

/* 1 when every ring asks for a doorbell and none has a record: the thread may sleep. */
static int service_arm(struct mc_host *host)
{
    struct mc_domain *domain;
    int pending = 0;
    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));) {
        if (mc_phase_of(domain) == MC_ACTIVE)
            pending |= mc_back_arm(&domain->rings[MC_RING_MEMORY]) |
                       mc_back_arm(&domain->rings[MC_RING_TMEM]) |
                       (int)(domain->is_unfinished[0] | domain->is_unfinished[1]);
        else if (mc_phase_of(domain) == MC_CLOSING)
            pending = 1;
    }
    return !pending;
}

static void service_show_cpu(struct mc_host *host)
{
    uint32_t cpu = mc_cpu_now();
    struct mc_domain *domain;
    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
        if (mc_phase_of(domain) == MC_ACTIVE)
            atomic_store_explicit(&domain->control->hypervisor_cpu, cpu, memory_order_relaxed);
}

static uint64_t service_longest_ns(const struct mc_host *host, const struct service_wait *wait)
{
    int is_long = wait->for_page && wait->looked_ns >= wait->shared_until_ns;
    return host->spin_ns * (is_long ? MC_PAGE_SPINS : 1);
}

static uint64_t service_next_budget(const struct mc_host *host, uint64_t budget_ns,
                                    uint64_t longest_ns, int was_close)
{
    MC_CHECK(budget_ns <= host->spin_ns * MC_PAGE_SPINS, "spins for %lu ns, spin_ns is %lu",
             budget_ns, host->spin_ns);
    uint64_t next_ns = was_close ? 2 * budget_ns + MC_SPIN_BUDGET_MIN_NS : budget_ns / 2;
    return next_ns < longest_ns ? next_ns : longest_ns;
}

/* After a round that served something. */
static void service_note_busy(const struct mc_host *host, struct service_wait *wait)
{
    uint64_t longest_ns = service_longest_ns(host, wait);
    if (wait->idle_since_ns && mc_clock_ns() - wait->idle_since_ns <= longest_ns)
        wait->budget_ns = service_next_budget(host, wait->budget_ns, longest_ns, 1);
    wait->idle_since_ns = 0;
}

/* After one that served nothing: 1 to look again at once. */
static int service_spins(const struct mc_host *host, struct service_wait *wait)
{
    uint64_t now_ns = mc_clock_ns();
    if (!wait->idle_since_ns)
        wait->idle_since_ns = now_ns;
    else if (now_ns - wait->looked_ns > MC_AWAY_NS)
        wait->shared_until_ns = now_ns + MC_SHARED_NS;
    wait->looked_ns = now_ns;
    if (wait->budget_ns > service_longest_ns(host, wait))
        wait->budget_ns = service_longest_ns(host, wait);
    return now_ns - wait->idle_since_ns < wait->budget_ns;
}

int mc_service_run(struct mc_host *host)
{
    struct epoll_event events[MC_EPOLL_EVENTS_MAX];
    struct service_wait wait = {.budget_ns = host->spin_ns};
    int got;
    MC_CHECK(!host->service_running, "%u service threads run", host->service_running);
    mc_work_later();
    /* Before any phase is read: the main thread closes a domain by storing its phase, then reads
     * this. */
    __atomic_store_n(&host->service_running, 1, __ATOMIC_SEQ_CST);
    service_show_cpu(host);
    while (!__atomic_load_n(&host->stop, __ATOMIC_ACQUIRE)) {
        if (service_visit_all(host, &wait)) {
            service_note_busy(host, &wait);
            if (wait.budget_ns)     /* without a spin to come, arming looks again as well */
                continue;
        }
        if (service_spins(host, &wait)) {
            mc_cpu_relax();
            continue;
        }
        if (!service_arm(host))
            continue;
        wait.budget_ns = service_next_budget(host, wait.budget_ns, wait.budget_ns, 0);
        got = epoll_wait(host->epoll_fd, events, MC_EPOLL_EVENTS_MAX, MC_EPOLL_TIMEOUT_MS);
        MC_CHECK(got >= 0 || errno == EINTR, "epoll fd %d: errno %d", host->epoll_fd, errno);
        wait.looked_ns = mc_clock_ns();
        service_show_cpu(host);
    }
    __atomic_store_n(&host->service_running, 0, __ATOMIC_RELEASE);
    mc_host_lock(host);
    mc_tell_done(host);
    mc_host_unlock(host);
    return MC_OK;
}
