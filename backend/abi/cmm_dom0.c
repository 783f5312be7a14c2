/* cmm_dom0.c: dom0 coordinates memory between frontends. See cmm_dom0.h, cmm.h.
 *
 *   1. collect   take what domains offer (cmm_channel.c).
 *   2. serve     one ask of each domain in turn, as far as it can be served at once: a ready area,
 *                or one that the asker's keeper populates while dom0 goes on; when there is no more
 *                memory than the slack, a donor's. dom0 asks the donor with most free memory, one
 *                above its target first, to come down by what is missing. It sleeps until the donor
 *                has offered, has said no, or the donor's time to answer is over; after
 *                CMM_DONORS_MAX donors the answer to the ask is MC_ENOMEM. The asker is served at
 *                once out of the slack.
 *   3. sleep     until a domain rings.
 * A donor that gave nothing is not asked again for CMM_SHUN_NS, doubled each time up to
 * 2^CMM_SHUN_DOUBLINGS: a silent donor cannot hold up the others for long.
 */
#include "cmm_dom0.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define CMM_DONORS_MAX 4
#define CMM_SHUN_NS 1000000000ull
#define CMM_SHUN_DOUBLINGS 6
#define CMM_SLEEP_NS 100000000u
#define CMM_ASK_NS_MAX 2000000000u      /* an ask waits no longer for the keeper */

static int dom0_is_stopping(const struct mc_dom0 *dom0)
{
    return __atomic_load_n(&dom0->stop, __ATOMIC_ACQUIRE) != 0;
}

/* ---- donors ---- */

static struct mc_domain *dom0_choose_donor(struct mc_host *host, const struct mc_domain *asker)
{
    struct mc_domain *best = NULL, *donor;
    uint32_t most = 0;
    int best_above = 0;
    MC_CHECK(cmm_of(asker)->dom0, "domain %u asks without dom0", asker->domid);
    for (uint64_t mask = mc_attached(host); (donor = mc_next(host, &mask));) {
        int above;
        uint32_t spare;
        if (donor == asker || !mc_cmm_has_dom0(donor) || mc_clock_ns() < cmm_of(donor)->shunned_ns)
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

/* The donor was asked and gave so much. */
static void dom0_note_given(struct mc_cmm *donor, uint64_t areas)
{
    int doublings = donor->failures < CMM_SHUN_DOUBLINGS ? donor->failures : CMM_SHUN_DOUBLINGS;
    MC_CHECK(donor->failures >= 0, "a donor failed %d times", donor->failures);
    if (areas) {
        donor->failures = 0;
        return;
    }
    donor->failures++;
    donor->shunned_ns = mc_clock_ns() + (CMM_SHUN_NS << doublings);
}

/* The size the donor is to come to, in frames. */
static uint64_t dom0_smaller_size(const struct mc_domain *donor, uint32_t areas)
{
    uint64_t frames = (uint64_t)areas * MC_AREA_FRAMES;
    uint64_t size = donor->installed_frames > frames ? donor->installed_frames - frames : 0;
    MC_CHECK_IN(donor, areas && areas <= MC_GROW_AREAS_MAX, "asked for %u areas", areas);
    return size < donor->target_frames ? size : donor->target_frames;
}

/* Ask one donor and wait for its answer; areas it gave. Releases the lock. */
static uint32_t dom0_ask_donor(struct mc_dom0 *dom0, const struct mc_domain *asker,
                               struct mc_domain *donor)
{
    struct mc_cmm *device = cmm_of(donor), *asking = cmm_of(asker);
    uint64_t serial = device->serial, before = device->given_areas;
    uint64_t deadline_ns = mc_clock_ns() + donor->options[MC_CMM_ANSWER] * MC_NS_PER_MS, now_ns;
    int32_t status;
    MC_CHECK(donor != asker, "domain %u is to give to itself", donor->domid);
    asking->waits++;
    mc_config_ask(donor, dom0_smaller_size(donor, asking->ask.missing));
    for (;;) {      /* until the deadline */
        mc_cmm_collect(dom0->host);
        if (device->given_areas != before || mc_config_settled(donor, &status))
            break;
        now_ns = mc_clock_ns();
        if (now_ns >= deadline_ns) {
            asking->timeouts++;
            break;
        }
        mc_cmm_wait(dom0, deadline_ns - now_ns);
        if (!mc_cmm_has_dom0(donor) || cmm_of(donor)->serial != serial)
            return 0;           /* the donor is gone, or another domain has its number */
        if (mc_phase_of(asker) != MC_ACTIVE || dom0_is_stopping(dom0))
            break;
    }
    /* The donor is to give no more than this; up to its target it may grow again. */
    atomic_store(&donor->control->requested_frames, donor->target_frames);
    MC_CHECK_IN(donor, device->given_areas >= before, "gave %lu areas, now %lu", before,
                device->given_areas);
    dom0_note_given(device, device->given_areas - before);
    return (uint32_t)(device->given_areas - before);
}

/* Have donors give what is missing; 1 when one gave something. Releases the lock. */
static int dom0_take_from_donors(struct mc_dom0 *dom0, struct mc_domain *asker)
{
    struct mc_cmm_ask *ask = &cmm_of(asker)->ask;
    MC_CHECK_IN(asker, ask->donors <= CMM_DONORS_MAX, "%d donors were asked", ask->donors);
    while (!ask->given && ask->donors < CMM_DONORS_MAX && mc_phase_of(asker) == MC_ACTIVE) {
        struct mc_domain *donor = dom0_choose_donor(dom0->host, asker);
        if (!donor)
            return 0;
        ask->donors++;
        ask->given = dom0_ask_donor(dom0, asker, donor);
    }
    return ask->given > 0;
}

/* ---- asks ---- */

int mc_dom0_make_ready(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_cmm *device = cmm_of(domain);
    int64_t area = mc_find_state(domain, MC_A_HARD);
    int status = area < 0 ? MC_ETARGET : MC_OK, path = MC_PATH_RING;
    MC_CHECK_LOCKED(host);
    if (device->wish != MC_CMM_WISHED)
        return 0;
    if (!domain->counts[MC_A_READY] && !status)
        status = mc_supply_find(host, domain, &path);
    area = mc_find_state(domain, MC_A_HARD);
    if (!domain->counts[MC_A_READY] && !status)
        status = area < 0 ? MC_ETARGET : mc_populate(host, domain, (uint32_t)area, MC_A_READY);
    device->wish = MC_CMM_WISH_DONE;
    device->wish_status = status;
    device->wish_path = path;
    mc_eventfd_ring(host->kick_fd);     /* dom0 listens there */
    return 1;
}

/* Grant the ready area; MC_LATER when it was withdrawn meanwhile. */
static int dom0_grant(struct mc_dom0 *dom0, struct mc_domain *asker)
{
    struct mc_cmm *device = cmm_of(asker);
    struct mc_cmm_ask *ask = &device->ask;
    int64_t area = mc_find_state(asker, MC_A_READY);
    int status = area < 0 ? MC_LATER : mc_grant(dom0->host, asker, (uint32_t)area);
    MC_CHECK_IN(asker, ask->missing, "nothing is missing");
    mc_work(dom0->host, asker);
    if (status)
        return status;
    ask->path = device->wish == MC_CMM_WISH_DONE ? device->wish_path : MC_PATH_RING;
    device->wish = MC_CMM_NO_WISH;
    if (ask->given) {
        ask->given--;
        device->transfers++;
        ask->path = MC_PATH_TRANSFER;
    }
    ask->missing--;
    ask->granted++;
    asker->counters.grants[ask->path]++;
    return MC_OK;
}

/* One step towards an area that is ready: MC_LATER when the keeper works on it, 0 when something
 * changed, or why there is none. Releases the lock. */
static int dom0_prepare(struct mc_dom0 *dom0, struct mc_domain *asker)
{
    struct mc_cmm *device = cmm_of(asker);
    int status = MC_OK;
    MC_CHECK_IN(asker, device->wish <= MC_CMM_WISH_DONE, "wish %d", device->wish);
    switch (device->wish) {
    case MC_CMM_NO_WISH:
        device->wish = MC_CMM_WISHED;
        mc_work(dom0->host, asker);
        return MC_LATER;
    case MC_CMM_WISHED:
        return mc_clock_ns() < device->ask.until_ns ? MC_LATER : MC_ENOMEM;
    default:
        status = device->wish_status;
        device->wish = MC_CMM_NO_WISH;
        if (status != MC_ENOMEM)
            return status;
        device->ask.given = 0;  /* what donors gave so far, another domain was quicker to take */
        return dom0_take_from_donors(dom0, asker) ? MC_OK : status;
    }
}

/* Grant what an ask wants, as far as it can be had now: MC_LATER, 0 when all is granted, or why not
 * all of it. Releases the lock. */
static int dom0_go_on(struct mc_dom0 *dom0, struct mc_domain *asker)
{
    struct mc_cmm_ask *ask = &cmm_of(asker)->ask;
    int status = MC_OK;
    while (ask->missing && !status && mc_phase_of(asker) == MC_ACTIVE) {
        if (asker->counts[MC_A_INSTALLED] >= asker->target_areas)
            return MC_ETARGET;
        asker->growing = 1;
        if (!asker->counts[MC_A_READY]) {
            status = dom0_prepare(dom0, asker);
            continue;
        }
        /* An area that stood ready before the ask is replaced; one that was populated for the ask
         * needs no other. */
        if (!ask->given && cmm_of(asker)->wish != MC_CMM_WISH_DONE &&
            !mc_has_free(dom0->host, MC_AREA_FRAMES))
            dom0_take_from_donors(dom0, asker);
        if (mc_phase_of(asker) == MC_ACTIVE)
            status = dom0_grant(dom0, asker);
    }
    return status;
}

static void dom0_answer_ask(struct mc_domain *domain, uint32_t number, int32_t result, int path)
{
    struct mc_cmm *device = cmm_of(domain);
    MC_CHECK_IN(domain, result >= MC_EBROKEN && result <= MC_GROW_AREAS_MAX && path >= 0 &&
                    path <= UINT8_MAX, "answer %d by path %d", result, path);
    MC_CHECK_IN(domain, number != device->answered, "ask %u is answered twice", number);
    device->asks++;
    mc_config_write(domain, MC_CMM_ASKS, device->asks);
    mc_config_write(domain, MC_CMM_TRANSFERS, device->transfers);
    mc_config_write(domain, MC_CMM_WAITS, mc_cmm_message(device->timeouts, device->waits));
    mc_config_write(domain, MC_CMM_ASKED,
                        mc_cmm_message(number, (uint32_t)path << 16 | (uint16_t)result));
    device->answered = number;  /* last: an ask that was not answered is served again */
}

/* A new ask: 0, or MC_EINDEX for one that no correct guest makes. */
static int dom0_open_ask(struct mc_domain *domain, uint64_t message)
{
    uint32_t wanted = (uint32_t)message;
    struct mc_cmm *device = cmm_of(domain);
    if (device->ask.is_open && device->ask.number == mc_cmm_number(message))
        return MC_OK;
    device->ask = (struct mc_cmm_ask){.number = mc_cmm_number(message), .is_open = 1,
                                      .path = MC_PATH_RING,
                                      .until_ns = mc_clock_ns() + CMM_ASK_NS_MAX};
    if (!wanted || wanted > MC_GROW_AREAS_MAX) {
        mc_count_bad(domain);
        return MC_EINDEX;
    }
    device->ask.missing = wanted;
    return MC_OK;
}

/* Serve the next ask of a domain; 1 when it was answered. Releases the lock. */
static int dom0_serve(struct mc_dom0 *dom0, struct mc_domain *domain)
{
    struct mc_cmm *device = cmm_of(domain);
    uint64_t message = mc_cmm_driver_word(domain, MC_CMM_ASK);
    int status;
    MC_CHECK_LOCKED(dom0->host);
    if (mc_cmm_number(message) == device->answered)
        return 0;
    status = dom0_open_ask(domain, message);
    domain->users++;
    if (!status)
        status = dom0_go_on(dom0, domain);
    MC_CHECK_IN(domain, domain->users, "dom0 lets it go without holding it");
    domain->users--;
    if (mc_phase_of(domain) != MC_ACTIVE) {
        mc_work(dom0->host, domain);
        mc_tell_done(dom0->host);
        return 1;
    }
    if (status == MC_LATER)
        return 0;
    device->ask.is_open = 0;
    domain->counters.refused += !device->ask.granted;
    domain->counters.requests++;
    domain->counters.wakes++;
    dom0_answer_ask(domain, mc_cmm_number(message),
                    device->ask.granted ? (int32_t)device->ask.granted : status,
                    device->ask.path);
    mc_reach_note(dom0->host, domain);
    mc_cmm_ring(dom0->host, domain);
    return 1;
}

/* ---- the thread ---- */

static void *dom0_run(void *argument)
{
    struct mc_dom0 *dom0 = argument;
    struct mc_host *host = dom0->host;
    struct mc_domain *domain;
    mc_work_later();
    mc_host_lock(host);
    while (!dom0_is_stopping(dom0)) {
        int worked = mc_cmm_collect(host);
        for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
            worked += mc_cmm_has_dom0(domain) && dom0_serve(dom0, domain);
        mc_work_now(host);
        if (!worked)
            mc_cmm_wait(dom0, CMM_SLEEP_NS);
    }
    mc_host_unlock(host);
    return NULL;
}

static int dom0_listen_to(struct mc_dom0 *dom0, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    return epoll_ctl(dom0->epoll_fd, EPOLL_CTL_ADD, fd, &event) ? MC_EKERNEL : MC_OK;
}

static struct mc_dom0 *dom0_start(struct mc_host *host)
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
    failed = dom0_listen_to(dom0, host->kick_fd) ||
             pthread_create(&dom0->thread, NULL, dom0_run, dom0);
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
    struct mc_dom0 *dom0 = host->own->dom0;
    MC_CHECK(!cmm_of(domain)->dom0 && domain->bell_fd >= 0, "domain %u joins dom0 twice, bell %d",
             domain->domid, domain->bell_fd);
    if (!dom0 && !(dom0 = host->own->dom0 = dom0_start(host)))
        return MC_EKERNEL;
    dom0->domains++;
    cmm_of(domain)->dom0 = dom0;
    return dom0_listen_to(dom0, domain->bell_fd);
}

void mc_dom0_leave(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_dom0 *dom0 = cmm_of(domain)->dom0;
    MC_CHECK(dom0 && dom0 == host->own->dom0, "domain %u leaves dom0 %p, this host's is %p",
             domain->domid, (void *)dom0, (void *)host->own->dom0);
    MC_CHECK(dom0->domains, "domain %u leaves dom0, which has none", domain->domid);
    MC_CHECK(mc_phase_of(domain) != MC_ACTIVE, "domain %u leaves dom0 in phase %u", domain->domid,
             mc_phase_of(domain));
    epoll_ctl(dom0->epoll_fd, EPOLL_CTL_DEL, domain->bell_fd, NULL);
    cmm_of(domain)->dom0 = NULL;
    if (--dom0->domains)
        return;
    __atomic_store_n(&dom0->stop, 1, __ATOMIC_RELEASE);
    mc_eventfd_ring(host->kick_fd);
    pthread_join(dom0->thread, NULL);
    host->own->dom0 = NULL;
    close(dom0->epoll_fd);
    free(dom0);
}

int mc_dom0_rejoin(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_cmm *device = cmm_of(domain);
    int status;
    MC_CHECK_LOCKED(host);
    device->dom0 = NULL;        /* of the process before, like what it did about the last ask */
    device->ask = (struct mc_cmm_ask){0};
    device->wish = MC_CMM_NO_WISH;
    status = mc_dom0_join(host, domain);
    if (status)
        return status;
    if (device->dom0->serials < device->serial)
        device->dom0->serials = device->serial;
    device->is_again = device->unrung = 1;
    return MC_OK;
}

void mc_dom0_reset(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_cmm *device = cmm_of(domain);
    MC_CHECK_LOCKED(host);
    MC_CHECK(device->dom0 && device->dom0 == host->own->dom0,
             "domain %u boots with dom0 %p, this host's is %p", domain->domid,
             (void *)device->dom0, (void *)host->own->dom0);
    MC_CHECK(mc_phase_of(domain) != MC_ACTIVE, "domain %u boots in phase %u", domain->domid,
             mc_phase_of(domain));
    device->serial = ++device->dom0->serials;
    device->answered = device->collected = 0;
    device->unrung = device->failures = 0;
    device->shunned_ns = 0;
    device->ask = (struct mc_cmm_ask){0};
    device->wish = MC_CMM_NO_WISH;
}
