/* drv_cmm.c: the guest half of `cmm`. See cmm.h, driver.h.
 *
 * An allocation that finds nothing asks dom0 by a message, or the hypervisor by GROW. A domain of
 * the dom0 design that shall give memory does so by itself: its driver claims free areas
 * (movable.h), offers them, and puts those to use again that dom0 did not take. A message that got
 * no answer in time stays valid: the next message waits for that answer first.
 */
#include "driver.h"

#include "cmm.h"
#include "movable.h"

#include <stdlib.h>
#include <string.h>

#define RETRY_NS 100000000u     /* above the target, memory freed meanwhile is offered so often */

struct cmm {
    pthread_mutex_t ask_lock;
    pthread_mutex_t offer_lock;
    uint32_t offered[MC_CMM_OFFER_MAX];     /* areas of the offer that is not answered yet */
    uint32_t offered_count;
    uint8_t *refused;                       /* per area: 1 when dom0 did not take it in this step */
};

static int cmm_by_dom0(const struct mc_guest *guest)
{
    return guest->control->options[MC_CMM_DESIGN] == MC_CMM_DOM0;
}

static uint64_t cmm_answer(const struct mc_guest *guest, int index)
{
    return __atomic_load_n(&guest->control->config[index], __ATOMIC_ACQUIRE);
}

static void cmm_tell(struct mc_guest *guest, int index, uint64_t word)
{
    __atomic_store_n(&guest->control->driver[index], word, __ATOMIC_RELEASE);
}

static uint32_t cmm_number_told(const struct mc_guest *guest, int index)
{
    return mc_cmm_number(__atomic_load_n(&guest->control->driver[index], __ATOMIC_RELAXED));
}

static void cmm_send(struct mc_guest *guest, int index, uint32_t content)
{
    cmm_tell(guest, index, mc_cmm_message(cmm_number_told(guest, index) + 1, content));
    mc_eventfd_ring(guest->bell_fd);
}

/* The answer to the message in driver[question]; 0, MC_EGONE or MC_ETIMEOUT. */
static int cmm_await(struct mc_guest *guest, int question, int index, uint64_t *answer)
{
    struct mc_control *control = guest->control;
    uint64_t deadline_ns = mc_clock_ns() + guest->timeout_ns;
    for (;;) {          /* until the deadline */
        uint32_t seen = atomic_load(&control->guest_bell);
        *answer = cmm_answer(guest, index);
        if (mc_cmm_number(*answer) == cmm_number_told(guest, question))
            return MC_OK;
        if (!mc_guest_alive(guest) || mc_guest_is_stopping(guest))
            return MC_EGONE;
        uint64_t now_ns = mc_clock_ns(), left_ns = deadline_ns - now_ns;
        if (now_ns >= deadline_ns)
            return MC_ETIMEOUT;
        __atomic_fetch_add(&guest->sleeps, 1, __ATOMIC_RELAXED);
        mc_bell_wait((uint32_t *)&control->guest_bell, (uint32_t *)&control->guest_waiters, seen,
                     left_ns < MC_LIVENESS_NS ? left_ns : MC_LIVENESS_NS);
    }
}

static int64_t cmm_ask_dom0(struct mc_guest *guest, uint32_t areas, int *path)
{
    struct cmm *cmm = guest->own->device;
    uint64_t answer;
    if (mc_lock_within(&cmm->ask_lock, guest->timeout_ns) != MC_OK)
        return MC_ETIMEOUT;
    int status = cmm_await(guest, MC_CMM_ASK, MC_CMM_ASKED, &answer);
    if (status == MC_OK) {
        cmm_send(guest, MC_CMM_ASK, areas);
        __atomic_fetch_add(&guest->calls, 1, __ATOMIC_RELAXED);
        status = cmm_await(guest, MC_CMM_ASK, MC_CMM_ASKED, &answer);
    }
    pthread_mutex_unlock(&cmm->ask_lock);
    *path = (int)(answer >> 16 & 3);
    return status != MC_OK ? status : (int16_t)answer;
}

static int64_t cmm_more(struct mc_guest *guest, uint32_t areas, int *path)
{
    uint64_t *words = guest->control->driver, start_ns = mc_clock_ns();
    int64_t gained = cmm_by_dom0(guest) ? cmm_ask_dom0(guest, areas, path)
                                    : mc_ask_grow(guest, areas, path);
    uint64_t took_ns = mc_clock_ns() - start_ns;
    __atomic_store_n(&words[MC_CMM_LATENCY], took_ns, __ATOMIC_RELAXED);
    __atomic_fetch_add(&words[MC_CMM_WAITED], took_ns, __ATOMIC_RELAXED);
    return gained ? gained : MC_ENOMEM;
}

/* Claim up to `most` free areas, from the top, and note them in the offer. Returns how many. */
static uint32_t cmm_claim_free(struct mc_guest *guest, struct cmm *cmm, uint32_t most)
{
    uint64_t word = 0;
    uint32_t count = 0;
    for (uint32_t area = guest->frames.area_count; area-- > 0 && count < most;) {
        if (cmm->refused[area] || !mc_word_is_whole(mc_word(&guest->frames, area)) ||
            mc_offline(guest, area, 0) != MC_OK)
            continue;
        word = count % 4 ? word | (uint64_t)area << 16 * (count % 4) : area;
        cmm_tell(guest, MC_CMM_OFFERED + (int)count / 4, word);
        cmm->offered[count++] = area;
    }
    cmm->offered_count = count;
    return count;
}

/* Wait for the answer to the offer under way. Returns how many areas dom0 took, or a status. */
static int cmm_settle_offer(struct mc_guest *guest, struct cmm *cmm)
{
    uint64_t answer;
    int taken = 0, status = cmm_await(guest, MC_CMM_OFFER, MC_CMM_TAKEN, &answer);
    if (status != MC_OK)
        return status;
    for (uint32_t i = 0; i < cmm->offered_count; i++) {
        if (!(answer >> i & 1)) {
            taken++;
            continue;
        }
        cmm->refused[cmm->offered[i]] = 1;
        mc_online(guest, cmm->offered[i]);
    }
    cmm->offered_count = 0;
    return taken;
}

/* Offer up to `areas` free areas. Returns how many were offered, and in *taken how many dom0 took;
 * or a status. */
static int64_t cmm_offer(struct mc_guest *guest, uint32_t areas, int *taken)
{
    struct cmm *cmm = guest->own->device;
    int64_t count = 0;
    *taken = 0;
    if (mc_lock_within(&cmm->offer_lock, guest->timeout_ns) != MC_OK)
        return MC_ETIMEOUT;
    *taken = cmm_settle_offer(guest, cmm);
    if (*taken >= 0) {
        count = cmm_claim_free(guest, cmm, areas < MC_CMM_OFFER_MAX ? areas : MC_CMM_OFFER_MAX);
        if (count) {
            cmm_send(guest, MC_CMM_OFFER, (uint32_t)count);
            *taken = cmm_settle_offer(guest, cmm);
        }
    }
    pthread_mutex_unlock(&cmm->offer_lock);
    return *taken < 0 ? *taken : count;
}

static int64_t cmm_release(struct mc_guest *guest, uint32_t areas)
{
    int taken;
    if (!cmm_by_dom0(guest))
        return mc_ask_release(guest, areas);
    int64_t count = cmm_offer(guest, areas, &taken);
    return count < 0 ? count : taken;
}

/* Areas that the domain is asked to give; *own_target gets 1 when it is above its own target, 0
 * when only another domain needs the memory. */
static uint32_t cmm_excess(const struct mc_guest *guest, int *own_target)
{
    uint64_t size = atomic_load(&guest->control->current_frames);
    uint64_t wanted = atomic_load(&guest->control->requested_frames);
    *own_target = size > atomic_load(&guest->control->target_frames);
    return size > wanted ? (uint32_t)((size - wanted) / MC_AREA_FRAMES) : 0;
}

static int cmm_step(struct mc_guest *guest, uint64_t now_ns, uint64_t *next_ns)
{
    struct cmm *cmm = guest->own->device;
    int own_target, taken, refused = 0, dropped = 0;
    uint32_t areas;
    if (!cmm_by_dom0(guest))
        return MC_STEP_DONE;
    memset(cmm->refused, 0, guest->frames.area_count);
    /* Each round gives an area, has one refused, or is the last. */
    while ((areas = cmm_excess(guest, &own_target)) > 0) {
        int64_t count = cmm_offer(guest, areas, &taken);
        if (count < 0)
            return (int)count;
        refused |= count > taken;
        if (count)
            continue;
        if (own_target)
            *next_ns = now_ns + RETRY_NS;
        if (!own_target || dropped)
            return refused ? MC_EPERM : MC_ESTATE;
        dropped = 1;
        mc_guest_drop_cache(guest, (uint64_t)areas * MC_AREA_FRAMES);
        mc_guest_drain(guest);
    }
    return MC_STEP_DONE;
}

static int cmm_open(struct mc_guest *guest)
{
    struct cmm *cmm = calloc(1, sizeof *cmm);
    if (cmm == NULL)
        return MC_ENOMEM;
    cmm->refused = calloc(guest->frames.area_count, sizeof *cmm->refused);
    if (cmm->refused == NULL) {
        free(cmm);
        return MC_ENOMEM;
    }
    pthread_mutex_init(&cmm->ask_lock, NULL);
    pthread_mutex_init(&cmm->offer_lock, NULL);
    guest->own->device = cmm;
    return MC_OK;
}

static void cmm_close(struct mc_guest *guest)
{
    struct cmm *cmm = guest->own->device;
    if (cmm == NULL)
        return;
    pthread_mutex_destroy(&cmm->ask_lock);
    pthread_mutex_destroy(&cmm->offer_lock);
    free(cmm->refused);
    free(cmm);
}

const struct mc_driver mc_drv_cmm = {
    .name = "cmm", .id = MC_CMM, .populated = 1, .open = cmm_open, .close = cmm_close,
    .step = cmm_step, .more = cmm_more, .release = cmm_release,
};
