/* service.c: the service thread serves both rings of every domain. See host.h, ring.h, ops.h.
 *
 * One thread, so the tmem pool and the order of requests need no more than the host lock:
 *   1. visit every active domain: at most MC_VISIT_RECORDS_MAX records per ring, of the memory
 *      ring at most what is begun within MC_VISIT_NS_MAX; then publish the responses and ring the
 *      guest's bell if it sleeps. Then the worker is woken if there is something for it.
 *   2. nothing anywhere: spin for the current budget, looking again.
 *   3. still nothing: arm every ring, look once more, sleep in epoll.
 * The spin budget doubles when a request comes within spin_ns of the last one and halves when a
 * spin was in vain, so that an idle or a crowded host does not burn a CPU.
 * A record is copied out of the ring before it is looked at; frame and area numbers are checked
 * against the private state. A domain whose ring is broken, or that spent its error budget, is
 * marked BROKEN, served no more, and reported to the main thread.
 */
#include "mechanism.h"

#include <string.h>
#include <sys/epoll.h>

#define MC_VISIT_RECORDS_MAX 64
#define MC_EPOLL_EVENTS_MAX 16
#define MC_EPOLL_TIMEOUT_MS 100
#define MC_SPIN_BUDGET_MIN_NS 500

void mc_domain_break(struct mc_host *host, struct mc_domain *domain, int status)
{
    uint32_t active = MC_ACTIVE;

    domain->broken_status = (uint32_t)-status;
    atomic_store(&domain->control->state, MC_STATE_BROKEN);
    /* The main thread may have begun to close it meanwhile: that must not be overwritten. */
    __atomic_compare_exchange_n(&domain->phase, &active, MC_BROKEN, 0, __ATOMIC_ACQ_REL,
                                __ATOMIC_ACQUIRE);
    mc_eventfd_ring(host->event_fd);
}

static int64_t serve_memory(struct mc_host *host, struct mc_domain *domain,
                            struct mc_record *record)
{
    if (record->op == MC_OP_NOP)
        return MC_OK;
    return domain->mechanism->request ? domain->mechanism->request(host, domain, record) : MC_EOP;
}

static int64_t grow_tmem(struct mc_host *host)
{
    for (uint32_t area = 0; area < host->tmem.slab_areas; area++) {
        if (host->slab_used[area])
            continue;
        if (host->tmem.grow(host->tmem.state, area) < 0)
            return 0;
        mc_tmem_charge(host, area);
        return 1;
    }
    return 0;
}

static int64_t serve_tmem(struct mc_host *host, struct mc_domain *domain, struct mc_record *record)
{
    uint64_t page = 0, frame = record->arg[4];
    int64_t status;

    if (!host->tmem.execute || record->op < MC_OP_PUT || record->op > MC_OP_DESTROY_POOL)
        return MC_TMEM_BAD + MC_EOP;
    if (record->op == MC_OP_PUT || record->op == MC_OP_GET) {
        if (frame >= (uint64_t)domain->areas * MC_AREA_FRAMES)
            return MC_TMEM_BAD + MC_EINDEX;
        if (domain->states[frame / MC_AREA_FRAMES] != MC_A_INSTALLED || mc_is_hole(domain, frame))
            return MC_TMEM_BAD + MC_EFOREIGN;
        if (!domain->sealed)    /* a guest that shrinks its file would have us killed here */
            return MC_TMEM_BAD + MC_EPERM;
        page = domain->ram + (frame << MC_FRAME_SHIFT);
    }
    status = host->tmem.execute(host->tmem.state, (uint64_t)record, page, domain->domid, 1);
    if (status == MC_NEED_SLAB) {
        if (mc_has_free(host, MC_AREA_FRAMES) &&
            host->tmem_frames < (uint64_t)host->tmem_areas_max * MC_AREA_FRAMES)
            grow_tmem(host);
        status = host->tmem.execute(host->tmem.state, (uint64_t)record, page, domain->domid, 0);
    }
    return status;
}

static int is_bad(int ring, int64_t status)
{
    if (ring == 1)
        return status <= MC_TMEM_BAD;
    return status == MC_EINDEX || status == MC_EOP || status == MC_EFOREIGN || status == MC_ESTATE;
}

static void publish(struct mc_host *host, struct mc_domain *domain, int ring)
{
    if (!mc_back_publish(&domain->rings[ring]))
        return;
    domain->counters.wakes++;
    if (domain->relayed) {
        __atomic_fetch_or(&host->relay_mask, 1ull << domain->domid, __ATOMIC_RELEASE);
        mc_eventfd_ring(host->relay_fd);
        return;
    }
    mc_bell_ring((uint32_t *)&domain->control->guest_bell,
                 (uint32_t *)&domain->control->guest_waiters);
}

uint64_t mc_relay_take(struct mc_host *host)
{
    return __atomic_exchange_n(&host->relay_mask, 0, __ATOMIC_ACQ_REL);
}

/* What was left at the visit before, or a copy of the next in the ring. */
static int next_record(struct mc_domain *domain, int ring, struct mc_record *record)
{
    int got = 1;

    if (!ring && domain->is_unfinished) {
        domain->is_unfinished = 0;
        *record = domain->unfinished;
        return got;
    }
    got = mc_back_pop(&domain->rings[ring], record);
    record->status = 0;
    domain->counters.requests += got > 0;
    return got;
}

static void keep_unfinished(struct mc_domain *domain, const struct mc_record *record)
{
    domain->unfinished = *record;
    domain->is_unfinished = 1;
}

/* A guest that asks for much all the time gets a turn like the others, not all of them. The clock
 * is read for what may take long only. */
static int is_turn_over(uint64_t *since_ns)
{
    uint64_t now_ns = mc_clock_ns();

    *since_ns = *since_ns ? *since_ns : now_ns;
    return now_ns - *since_ns > MC_VISIT_NS_MAX;
}

/* Serve what waits in one ring; how many records, or a negative status that breaks the domain. */
static int serve_ring(struct mc_host *host, struct mc_domain *domain, int ring)
{
    struct mc_record record;
    uint64_t since_ns = 0;
    int served = 0, got = mc_back_pending(&domain->rings[ring]);

    if (got < 0 || (!got && (ring || !domain->is_unfinished)))
        return got;
    /* One hold for the visit: a locked instruction per record would wait each time for a page of
     * tmem that is still on its way to memory (tmem/slab.py). */
    mc_host_lock(host);
    while (served < MC_VISIT_RECORDS_MAX && (got = next_record(domain, ring, &record)) > 0) {
        int is_long = !ring && record.op != MC_OP_NOP;
        int64_t status;

        if (is_long && is_turn_over(&since_ns)) {
            keep_unfinished(domain, &record);
            break;
        }
        status = ring ? serve_tmem(host, domain, &record) : serve_memory(host, domain, &record);
        served++;
        if (status == MC_AGAIN) {
            keep_unfinished(domain, &record);
            break;
        }
        record.status = status;
        if (is_bad(ring, status))
            mc_count_bad(domain);
        if (status != MC_LATER && mc_back_push(&domain->rings[ring], &record)) {
            got = MC_ERUNAWAY;
            break;
        }
    }
    if (!ring)
        mc_reach_note(host, domain);
    mc_host_unlock(host);
    if (served)
        publish(host, domain, ring);
    return got < 0 ? got : served;
}

/* Answers that mechanisms gave by and by; how many, or a negative status that breaks the domain. */
static int push_answers(struct mc_host *host, struct mc_domain *domain)
{
    int status = MC_OK, count;

    if (!__atomic_load_n(&domain->answer_count, __ATOMIC_ACQUIRE))
        return 0;
    mc_host_lock(host);
    count = (int)domain->answer_count;
    for (int i = 0; i < count; i++) {
        if (is_bad(0, domain->answers[i].status))
            mc_count_bad(domain);
        status |= mc_back_push(&domain->rings[0], &domain->answers[i]);
    }
    domain->answer_count = 0;
    mc_reach_note(host, domain);
    mc_host_unlock(host);
    publish(host, domain, 0);
    return status ? MC_ERUNAWAY : count;
}

static void note_credit(struct mc_host *host, struct mc_domain *domain)
{
    uint64_t taken = atomic_load_explicit(&domain->control->credit_taken, memory_order_relaxed);

    if (taken == domain->credit_seen)
        return;
    domain->credit_seen = taken;
    mc_host_lock(host);         /* the worker has looked, or sees it now */
    mc_work(host);
    mc_host_unlock(host);
}

static int visit(struct mc_host *host, struct mc_domain *domain)
{
    int memory = serve_ring(host, domain, 0);
    int tmem = memory < 0 ? 0 : serve_ring(host, domain, 1);
    int late = memory < 0 ? 0 : push_answers(host, domain);

    if (memory < 0 || tmem < 0 || late < 0) {
        mc_domain_break(host, domain, memory < 0 ? memory : late < 0 ? late : tmem);
        return 0;
    }
    if (__atomic_load_n(&domain->counters.bad_requests, __ATOMIC_RELAXED) > host->error_budget)
        mc_domain_break(host, domain, MC_EPERM);
    note_credit(host, domain);
    return memory + tmem + late;
}

static int visit_all(struct mc_host *host)
{
    struct mc_domain *domain;
    int served = 0;

    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));) {
        uint32_t phase = mc_phase_of(domain);

        if (phase == MC_ACTIVE) {
            served += visit(host, domain);
        } else if (phase == MC_CLOSING) {
            mc_host_lock(host);
            mc_phase_set(domain, MC_QUIESCED);
            pthread_cond_broadcast(&host->own->done);
            mc_host_unlock(host);
        }
    }
    mc_work_now(host);
    return served;
}

static int armed_and_idle(struct mc_host *host)
{
    struct mc_domain *domain;
    int pending = 0;

    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));) {
        if (mc_phase_of(domain) == MC_ACTIVE)
            pending |= mc_back_arm(&domain->rings[0]) | mc_back_arm(&domain->rings[1]) |
                       (int)domain->is_unfinished;
        else if (mc_phase_of(domain) == MC_CLOSING)
            pending = 1;
    }
    return !pending;
}

static void publish_cpu(struct mc_host *host)
{
    uint32_t cpu = mc_cpu_now();
    struct mc_domain *domain;

    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
        if (mc_phase_of(domain) == MC_ACTIVE)
            atomic_store_explicit(&domain->control->hypervisor_cpu, cpu, memory_order_relaxed);
}

static uint64_t next_budget(const struct mc_host *host, uint64_t budget_ns, int was_close)
{
    uint64_t next_ns = was_close ? 2 * budget_ns + MC_SPIN_BUDGET_MIN_NS : budget_ns / 2;

    return next_ns > host->spin_ns ? host->spin_ns : next_ns;
}

int mc_service_run(struct mc_host *host)
{
    struct epoll_event events[MC_EPOLL_EVENTS_MAX];
    uint64_t budget_ns = host->spin_ns, idle_since_ns = 0;

    mc_work_later();
    /* Before any phase is read: whoever closes a domain stores its phase, then reads this. */
    __atomic_store_n(&host->service_running, 1, __ATOMIC_SEQ_CST);
    publish_cpu(host);
    while (!__atomic_load_n(&host->stop, __ATOMIC_ACQUIRE)) {
        if (visit_all(host)) {
            if (idle_since_ns && mc_clock_ns() - idle_since_ns <= host->spin_ns)
                budget_ns = next_budget(host, budget_ns, 1);
            idle_since_ns = 0;
            if (budget_ns)      /* without a spin to come, arming looks again as well */
                continue;
        }
        if (!idle_since_ns)
            idle_since_ns = mc_clock_ns();
        if (mc_clock_ns() - idle_since_ns < budget_ns) {
            mc_cpu_relax();
            continue;
        }
        if (!armed_and_idle(host))
            continue;
        if (budget_ns)
            budget_ns = next_budget(host, budget_ns, 0);
        epoll_wait(host->epoll_fd, events, MC_EPOLL_EVENTS_MAX, MC_EPOLL_TIMEOUT_MS);
        publish_cpu(host);
    }
    __atomic_store_n(&host->service_running, 0, __ATOMIC_RELEASE);
    mc_host_lock(host);
    pthread_cond_broadcast(&host->own->done);
    mc_host_unlock(host);
    return MC_OK;
}
