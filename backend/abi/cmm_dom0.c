/* cmm_dom0.c: dom0 coordinates memory between frontends. See cmm_dom0.h, cmm.h.
 *
 *   1. collect   what domains offer is taken from them; the worker punches it.
 *   2. serve     one ask of each domain in turn: a ready area, or free host memory; when there is
 *                no more than the slack, a donor's. The donor with most free memory is asked, one
 *                above its target first, to come down by what is missing. dom0 sleeps until it has
 *                offered, has said no, or its time to answer is over; at most MC_CMM_DONORS_MAX
 *                donors to an ask, then MC_ENOMEM. The asker is served at once out of the slack.
 *   3. sleep     until a domain rings.
 * A donor that gave nothing is not asked again for MC_CMM_SHUN_NS, doubled each time up to
 * 2^MC_CMM_SHUN_DOUBLINGS: a silent one cannot hold up the others for long.
 */
#include "cmm_dom0.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define MC_CMM_DONORS_MAX 4
#define MC_CMM_SHUN_NS 1000000000u
#define MC_CMM_SHUN_DOUBLINGS 6
#define MC_CMM_EVENTS_MAX 16
#define MC_CMM_SLEEP_NS 100000000u
#define NS_PER_MS 1000000u

struct mc_dom0 {
    struct mc_host *host;
    int epoll_fd;
    uint32_t domains;
    uint32_t stop;              /* atomic */
    uint64_t serials;
    pthread_t thread;
};

/* One ask under way. */
struct ask {
    struct mc_domain *asker;
    uint32_t missing;           /* areas */
    uint32_t given;             /* by donors for it, and not granted yet */
    int donors;                 /* asked so far */
};

static int is_ours(const struct mc_domain *domain)
{
    return mc_phase_of(domain) == MC_ACTIVE && domain->mechanism == &mc_cmm &&
           ((const struct mc_cmm *)domain->device)->dom0;
}

static uint64_t driver_word(const struct mc_domain *domain, int index)
{
    return __atomic_load_n(&domain->control->driver[index], __ATOMIC_ACQUIRE);
}

static void say(struct mc_domain *domain, int index, uint64_t word)
{
    __atomic_store_n(&domain->control->config[index], word, __ATOMIC_RELEASE);
}

static void ring(struct mc_host *host, struct mc_domain *domain)
{
    ((struct mc_cmm *)domain->device)->unrung = 0;
    if (domain->relayed) {
        __atomic_fetch_or(&host->relay_mask, 1ull << domain->domid, __ATOMIC_RELEASE);
        mc_eventfd_ring(host->relay_fd);
        return;
    }
    mc_bell_ring((uint32_t *)&domain->control->guest_bell,
                 (uint32_t *)&domain->control->guest_waiters);
}

static void publish_counters(struct mc_domain *domain)
{
    const struct mc_cmm *device = domain->device;

    say(domain, MC_CMM_ASKS, device->asks);
    say(domain, MC_CMM_TRANSFERS, device->transfers);
    say(domain, MC_CMM_WAITS, mc_cmm_message(device->timeouts, device->waits));
}

/* Take what one domain offers; 1 when there was an offer. */
static int collect(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_cmm *device = domain->device;
    uint64_t offer = driver_word(domain, MC_CMM_OFFER);
    uint32_t count = (uint32_t)offer, left = 0;

    if (mc_cmm_number(offer) == device->collected)
        return 0;
    if (!count || count > MC_CMM_OFFER_MAX) {
        mc_count_bad(domain);
        count = 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint64_t word = driver_word(domain, MC_CMM_OFFERED + (int)i / 4);
        uint32_t area = word >> 16 * (i % 4) & 0xffff;
        int status = area < domain->areas ? mc_pull(host, domain, area, MC_PULL_CLAIMED)
                                          : MC_EINDEX;

        if (status && status != MC_EPERM)
            mc_count_bad(domain);
        left |= (uint32_t)(status != MC_OK) << i;
        device->given_areas += status == MC_OK;
    }
    domain->growing = 0;
    device->collected = mc_cmm_number(offer);
    device->unrung = 1;         /* after the asker, who waits for this memory, has been served */
    say(domain, MC_CMM_TAKEN, mc_cmm_message(device->collected, left));
    mc_reach_note(host, domain);
    return 1;
}

static int collect_all(struct mc_host *host)
{
    struct mc_domain *domain;
    int offers = 0;

    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
        offers += is_ours(domain) && collect(host, domain);
    return offers;
}

static void ring_all(struct mc_host *host)
{
    struct mc_domain *domain;

    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
        if (is_ours(domain) && ((struct mc_cmm *)domain->device)->unrung)
            ring(host, domain);
}

/* Wait for an event channel. Releases the lock. */
static void wait_for_event(struct mc_dom0 *dom0, uint64_t longest_ns)
{
    struct epoll_event events[MC_CMM_EVENTS_MAX];

    ring_all(dom0->host);
    mc_host_unlock(dom0->host);
    epoll_wait(dom0->epoll_fd, events, MC_CMM_EVENTS_MAX,
               (int)((longest_ns + NS_PER_MS - 1) / NS_PER_MS));
    mc_host_lock(dom0->host);
}

static int stopping(const struct mc_dom0 *dom0)
{
    return __atomic_load_n(&dom0->stop, __ATOMIC_ACQUIRE);
}

static struct mc_domain *choose_donor(struct mc_host *host, const struct mc_domain *asker)
{
    struct mc_domain *best = NULL, *donor;
    uint32_t most = 0;
    int best_above = 0;

    for (uint64_t mask = mc_attached(host); (donor = mc_next(host, &mask));) {
        const struct mc_cmm *device = donor->device;
        int above;
        uint32_t spare;

        if (donor == asker || !is_ours(donor) || mc_clock_ns() < device->shunned_ns)
            continue;
        above = donor->installed_frames > donor->target_frames;
        spare = above < best_above ? 0 : mc_spare_areas(donor, donor->areas);
        if (spare && (above > best_above || spare > most)) {
            best = donor;
            most = spare;
            best_above = above;
        }
    }
    return best;
}

/* Uncooperative: it gave nothing. */
static void shun(struct mc_cmm *device)
{
    int doublings = device->failures < MC_CMM_SHUN_DOUBLINGS ? device->failures
                                                             : MC_CMM_SHUN_DOUBLINGS;

    device->failures++;
    device->shunned_ns = mc_clock_ns() + ((uint64_t)MC_CMM_SHUN_NS << doublings);
}

static uint64_t smaller_by(const struct mc_domain *donor, uint32_t areas)
{
    uint64_t frames = (uint64_t)areas * MC_AREA_FRAMES;
    uint64_t size = donor->installed_frames > frames ? donor->installed_frames - frames : 0;

    return size < donor->target_frames ? size : donor->target_frames;
}

/* Ask one donor and wait for its answer; areas it gave. Releases the lock. */
static uint32_t ask_donor(struct mc_dom0 *dom0, const struct ask *ask, struct mc_domain *donor)
{
    struct mc_cmm *device = donor->device, *asking = ask->asker->device;
    uint64_t serial = device->serial, before = device->given_areas;
    uint64_t deadline_ns = mc_clock_ns() + donor->options[MC_CMM_ANSWER] * NS_PER_MS, now_ns;
    int32_t status;

    asking->waits++;
    mc_config_ask(donor, smaller_by(donor, ask->missing));
    for (;;) {      /* until the deadline */
        collect_all(dom0->host);
        if (device->given_areas != before || mc_config_settled(donor, &status))
            break;
        now_ns = mc_clock_ns();
        if (now_ns >= deadline_ns) {
            asking->timeouts++;
            break;
        }
        wait_for_event(dom0, deadline_ns - now_ns);
        if (!is_ours(donor) || ((struct mc_cmm *)donor->device)->serial != serial)
            return 0;           /* it went, or is another one by now */
        if (mc_phase_of(ask->asker) != MC_ACTIVE || stopping(dom0))
            break;
    }
    /* No more than this: what it needs itself later it may have. */
    atomic_store(&donor->control->requested_frames, donor->target_frames);
    if (device->given_areas == before)
        shun(device);
    else
        device->failures = 0;
    return (uint32_t)(device->given_areas - before);
}

/* Have donors give what is missing; 1 when one gave something. Releases the lock. */
static int take_from_donors(struct mc_dom0 *dom0, struct ask *ask)
{
    while (!ask->given && ask->donors < MC_CMM_DONORS_MAX &&
           mc_phase_of(ask->asker) == MC_ACTIVE) {
        struct mc_domain *donor = choose_donor(dom0->host, ask->asker);

        if (!donor)
            return 0;
        ask->donors++;
        ask->given = ask_donor(dom0, ask, donor);
    }
    return ask->given > 0;
}

/* Host memory for one area, wherever from; 0 or MC_ENOMEM. A ready area has its memory: then what
 * is looked for replaces it. Releases the lock. */
static int supply(struct mc_dom0 *dom0, struct ask *ask, int *path)
{
    struct mc_host *host = dom0->host;

    if (ask->asker->counts[MC_A_READY]) {
        if (!ask->given && !mc_has_free(host, MC_AREA_FRAMES))
            take_from_donors(dom0, ask);
        return MC_OK;
    }
    if (mc_supply_find(host, ask->asker, path) == MC_OK)
        return MC_OK;
    return take_from_donors(dom0, ask) ? mc_supply_find(host, ask->asker, path) : MC_ENOMEM;
}

/* An area to grant, after supply() said `status`: a ready one, one made ready now, or the one that
 * the worker is at. Or a status. Releases the lock. */
static int64_t ready_area(struct mc_host *host, struct mc_domain *asker, int status)
{
    int64_t area = mc_find_state(asker, MC_A_READY);

    if (area >= 0)
        return area;
    area = status ? MC_ENOMEM : mc_find_state(asker, MC_A_HARD);
    if (area >= 0) {
        status = mc_populate(host, asker, (uint32_t)area, MC_A_READY);
        return status ? status : area;
    }
    area = mc_find_state(asker, MC_A_POPULATING);
    if (area < 0)
        return status ? status : MC_ETARGET;
    mc_wait_area(host, asker, (uint32_t)area, 1u << MC_A_POPULATING);
    area = mc_find_state(asker, MC_A_READY);
    return area < 0 ? MC_ENOMEM : area;
}

/* One area. Releases the lock. */
static int grow(struct mc_dom0 *dom0, struct ask *ask, int *path)
{
    struct mc_domain *asker = ask->asker;
    struct mc_cmm *device = asker->device;
    int64_t area;
    int status;

    *path = MC_PATH_RING;
    if (asker->counts[MC_A_INSTALLED] >= asker->target_areas)
        return MC_ETARGET;
    asker->growing = 1;
    area = ready_area(dom0->host, asker, supply(dom0, ask, path));
    if (area < 0)
        return (int)area;
    if (mc_phase_of(asker) != MC_ACTIVE)
        return MC_EGONE;
    mc_work(dom0->host);
    status = mc_grant(dom0->host, asker, (uint32_t)area);
    if (status)
        return status;
    if (ask->given) {
        ask->given--;
        device->transfers++;
        *path = MC_PATH_TRANSFER;
    }
    asker->counters.grants[*path]++;
    return MC_OK;
}

static int64_t serve_ask(struct mc_dom0 *dom0, struct mc_domain *asker, uint32_t wanted, int *path)
{
    struct ask ask = {.asker = asker, .missing = wanted};
    int status = MC_OK;

    if (!wanted || wanted > MC_GROW_AREAS_MAX) {
        mc_count_bad(asker);
        return MC_EINDEX;
    }
    while (ask.missing && !(status = grow(dom0, &ask, path)))
        ask.missing--;
    asker->counters.refused += ask.missing == wanted;
    return ask.missing < wanted ? (int64_t)(wanted - ask.missing) : status;
}

/* The next ask of a domain; 1 when there was one. Releases the lock. */
static int serve(struct mc_dom0 *dom0, struct mc_domain *domain)
{
    struct mc_cmm *device = domain->device;
    uint64_t message = driver_word(domain, MC_CMM_ASK);
    int path = MC_PATH_RING;
    int64_t status;

    if (mc_cmm_number(message) == device->answered)
        return 0;
    domain->users++;
    status = serve_ask(dom0, domain, (uint32_t)message, &path);
    domain->users--;
    if (mc_phase_of(domain) != MC_ACTIVE) {
        pthread_cond_broadcast(&dom0->host->own->done);
        return 1;
    }
    device->answered = mc_cmm_number(message);
    device->asks++;
    domain->counters.requests++;
    domain->counters.wakes++;
    publish_counters(domain);
    say(domain, MC_CMM_ASKED, mc_cmm_message(device->answered, (uint32_t)path << 16 |
                                                                   (uint16_t)status));
    mc_reach_note(dom0->host, domain);
    ring(dom0->host, domain);
    return 1;
}

static void *run(void *argument)
{
    struct mc_dom0 *dom0 = argument;
    struct mc_host *host = dom0->host;
    struct mc_domain *domain;

    mc_work_later();
    mc_host_lock(host);
    while (!stopping(dom0)) {
        int worked = collect_all(host);

        for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
            worked += is_ours(domain) && serve(dom0, domain);
        mc_work_now(host);
        if (!worked)
            wait_for_event(dom0, MC_CMM_SLEEP_NS);
    }
    mc_host_unlock(host);
    return NULL;
}

static struct mc_dom0 *find(struct mc_host *host)
{
    for (uint32_t domid = 0; domid < MC_MAX_DOMAINS; domid++) {
        const struct mc_domain *domain = &host->domains[domid];
        const struct mc_cmm *device = domain->mechanism == &mc_cmm ? domain->device : NULL;

        if (device && device->dom0)
            return device->dom0;
    }
    return NULL;
}

static int listen_to(struct mc_dom0 *dom0, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};

    return epoll_ctl(dom0->epoll_fd, EPOLL_CTL_ADD, fd, &event) ? MC_EKERNEL : MC_OK;
}

static struct mc_dom0 *start(struct mc_host *host)
{
    struct mc_dom0 *dom0 = calloc(1, sizeof *dom0);
    sigset_t all, before;
    int failed;

    if (!dom0)
        return NULL;
    dom0->host = host;
    dom0->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    /* Bells that come through the relay, and the end of domains, ring there. */
    failed = listen_to(dom0, host->kick_fd) ||
             pthread_create(&dom0->thread, NULL, run, dom0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failed) {
        pthread_setname_np(dom0->thread, "dom0");
        return dom0;
    }
    if (dom0->epoll_fd >= 0)
        close(dom0->epoll_fd);
    free(dom0);
    return NULL;
}

int mc_dom0_join(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_dom0 *dom0 = find(host);

    if (!dom0 && !(dom0 = start(host)))
        return MC_EKERNEL;
    dom0->domains++;
    ((struct mc_cmm *)domain->device)->dom0 = dom0;
    return listen_to(dom0, domain->bell_fd);
}

void mc_dom0_leave(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_dom0 *dom0 = ((struct mc_cmm *)domain->device)->dom0;

    epoll_ctl(dom0->epoll_fd, EPOLL_CTL_DEL, domain->bell_fd, NULL);
    if (--dom0->domains)
        return;
    __atomic_store_n(&dom0->stop, 1, __ATOMIC_RELEASE);
    mc_eventfd_ring(host->kick_fd);
    pthread_join(dom0->thread, NULL);
    close(dom0->epoll_fd);
    free(dom0);
}

void mc_dom0_reset(struct mc_domain *domain)
{
    struct mc_cmm *device = domain->device;

    device->serial = ++device->dom0->serials;
    device->answered = device->collected = 0;
    device->unrung = device->failures = 0;
    device->shunned_ns = 0;
}
