/* drv_sections.c: the guest half of `sections`: brings the sections online and offline that the
 * hypervisor names.
 *
 * Offlining a section is Linux' offline_pages: isolate all of it, so that nothing more is handed
 * out of it; move the frames that can be moved; try a few times more, because a frame may be pinned
 * for a moment; claim the section and offer it. When a frame is left, or a newer bell rings, the
 * whole section goes online again.
 */
#include "driver.h"

#include "movable.h"
#include "sections.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define TODO_MAX 64             /* steps of one call */
#define EMPTY_TRIES_MAX 5       /* per area */
#define STATUS_CANCELLED 1

struct sections {
    uint32_t areas;             /* of a section */
    uint8_t *ours;              /* per area of the section: 1 when the driver isolated it */
    int has_room;               /* atomic: 1 when a section became free, which may be a kept one */
};

static int sections_open(struct mc_guest *guest)
{
    uint64_t areas = guest->control->options[MC_SECTIONS_AREAS];
    struct sections *sections;

    if (areas == 0 || areas > guest->frames.area_count)
        return MC_ELAYOUT;
    sections = calloc(1, sizeof *sections + areas);
    if (sections == NULL)
        return MC_ENOMEM;
    sections->areas = (uint32_t)areas;
    sections->ours = (uint8_t *)(sections + 1);
    guest->own->device = sections;
    return MC_OK;
}

static void sections_close(struct mc_guest *guest)
{
    free(guest->own->device);
}

static void sections_count(struct mc_guest *guest, enum mc_sections_driver what)
{
    __atomic_fetch_add(&guest->control->driver[what], 1, __ATOMIC_RELAXED);
}

static int sections_bell_rang(const struct mc_guest *guest, uint32_t bell)
{
    return atomic_load(&guest->control->config_bell) != bell;
}

/* Isolate the areas of a section, but for those that the host has taken back already. */
static int section_isolate(struct mc_guest *guest, uint32_t first)
{
    struct sections *sections = guest->own->device;

    for (uint32_t i = 0; i < sections->areas; i++) {
        if (mc_word(&guest->frames, first + i).reclaimed)
            continue;
        if (mc_isolate(guest, first + i) != MC_OK)
            return MC_ESTATE;
        sections->ours[i] = 1;
    }
    return MC_OK;
}

/* Do `what` to one area, and try again a few times: it may fail for a moment only. */
static int area_insist(struct mc_guest *guest, uint32_t area,
                       int (*what)(struct mc_guest *guest, uint32_t area))
{
    int status = what(guest, area);

    for (int tries = 1; status != MC_OK && tries < EMPTY_TRIES_MAX; tries++) {
        sched_yield();
        status = what(guest, area);
    }
    return status;
}

static int section_for_all(struct mc_guest *guest, uint32_t first, uint32_t bell,
                           int (*what)(struct mc_guest *guest, uint32_t area))
{
    struct sections *sections = guest->own->device;
    int status = MC_OK;

    for (uint32_t i = 0; i < sections->areas && status == MC_OK; i++) {
        if (sections_bell_rang(guest, bell))
            return STATUS_CANCELLED;
        if (sections->ours[i])
            status = area_insist(guest, first + i, what);
    }
    return status;
}

static void section_online_again(struct mc_guest *guest, uint32_t first)
{
    struct sections *sections = guest->own->device;

    for (uint32_t i = 0; i < sections->areas; i++)
        if (sections->ours[i])
            mc_online(guest, first + i);
}

static int64_t section_offer(struct mc_guest *guest, uint32_t section)
{
    struct mc_record record = {.op = MC_OP_SECTION_OFFLINED, .arg = {section}};

    return mc_ask(guest, &record);
}

static int64_t section_keep(struct mc_guest *guest, uint32_t section, int status)
{
    struct mc_record record = {.op = MC_OP_SECTION_KEPT,
                               .arg = {section, (uint64_t)-(int64_t)status}};

    sections_count(guest, MC_SECTIONS_KEPT);
    return mc_ask(guest, &record);
}

/* Offline a section; 0, or a status that ends the step. A section whose offer got no answer stays
 * claimed: the hypervisor may have taken it, or may take it yet. */
static int64_t section_offline(struct mc_guest *guest, uint64_t section, uint32_t bell)
{
    struct sections *sections = guest->own->device;
    uint32_t first = (uint32_t)section * sections->areas;
    int64_t answer;
    int status;

    if (section >= guest->frames.area_count / sections->areas)
        return MC_EINDEX;
    memset(sections->ours, 0, sections->areas);
    status = section_isolate(guest, first);
    if (status == MC_OK)
        status = section_for_all(guest, first, bell, mc_migrate);
    if (status == MC_OK)
        status = section_for_all(guest, first, bell, mc_claim_area);
    if (status != MC_OK) {
        section_online_again(guest, first);
        return status == STATUS_CANCELLED ? MC_OK : section_keep(guest, (uint32_t)section, status);
    }
    answer = section_offer(guest, (uint32_t)section);
    if (answer == MC_EGONE || answer == MC_ETIMEOUT)
        return answer;
    if (answer != MC_OK) {
        section_online_again(guest, first);
        return answer == MC_ESTATE ? answer : MC_OK;
    }
    sections_count(guest, MC_SECTIONS_OFFLINED);
    return MC_OK;
}

/* Ask for one step and take it; 1 when there may be another, 0 when there is none, or a status. */
static int64_t sections_act(struct mc_guest *guest)
{
    uint32_t bell = atomic_load(&guest->control->config_bell);
    struct sections *sections = guest->own->device;
    struct mc_record record = {.op = MC_OP_SECTION_NEXT};
    int64_t todo, status;

    if (__atomic_exchange_n(&sections->has_room, 0, __ATOMIC_ACQUIRE))
        record.arg[0] = MC_SECTION_ASK_ANEW;
    todo = mc_ask(guest, &record);
    switch (todo) {
    case MC_SECTION_ONLINED:
        sections_count(guest, MC_SECTIONS_ONLINED);
        return 1;
    case MC_SECTION_OFFLINE:
        status = section_offline(guest, record.arg[0], bell);
        return status < 0 ? status : 1;
    case MC_SECTION_STUCK:
        return record.arg[0] == (uint64_t)-MC_EPERM ? MC_EPERM : MC_ESTATE;
    default:
        return todo;
    }
}

static int sections_step(struct mc_guest *guest, uint64_t now_ns, uint64_t *next_ns)
{
    int64_t status = 1;

    for (int i = 0; i < TODO_MAX && status == 1; i++)
        status = sections_act(guest);
    if (status != 1)
        return (int)status;
    *next_ns = now_ns;
    return MC_STEP_MORE;
}

/* An allocation brings a section online itself, without waiting for the driver's thread. */
static int64_t sections_more(struct mc_guest *guest, uint32_t areas, int *path)
{
    struct mc_record record = {.op = MC_OP_SECTION_NEXT, .arg = {MC_SECTION_ASK_MORE}};
    int64_t todo = mc_ask(guest, &record);

    (void)areas;
    *path = MC_PATH_RING;
    if (todo != MC_SECTION_ONLINED)
        return todo < 0 ? todo : MC_ENOMEM;
    sections_count(guest, MC_SECTIONS_ONLINED);
    return record.arg[2] ? (int64_t)record.arg[2] : 1;
}

/* The guest has made room: a section that was kept may go now. */
static int64_t sections_release(struct mc_guest *guest, uint32_t areas)
{
    struct sections *sections = guest->own->device;
    uint32_t count = guest->frames.area_count / sections->areas, section = 0;

    (void)areas;
    while (section < count && !mc_all_free(guest, section * sections->areas, sections->areas))
        section++;
    if (section < count) {
        __atomic_store_n(&sections->has_room, 1, __ATOMIC_RELEASE);
        mc_driver_kick(guest);
    }
    return 0;                   /* the driver's thread gives it */
}

const struct mc_driver mc_drv_sections = {
    .name = "sections",
    .id = MC_SECTIONS,
    .open = sections_open,
    .close = sections_close,
    .step = sections_step,
    .more = sections_more,
    .release = sections_release,
};
