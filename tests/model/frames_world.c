/* frames_world.c: see frames_world.h. */
#include "frames_world.h"

#include "reclaim.h"

#include <stdio.h>
#include <stdlib.h>

#define FRAMES (WORLD_AREAS * MC_AREA_FRAMES)
#define GUESTS 2
#define PAGE_BYTES 4096

/* What the host's own record of an area says: reclaim.h. */
enum backing { HARD, SOFT, INSTALLED };

struct mc_frames world_frames;      /* a view: nobody changes it */
int world_backed[WORLD_AREAS], world_mapped[WORLD_AREAS], world_must_be_mapped;

static void *meta, *fresh;          /* the region, and how it looks at the start */
static int64_t meta_bytes;
static uint8_t owners[FRAMES];      /* 0, or the number of the guest thread that has the frame */
static enum backing backing[WORLD_AREAS];
static uint16_t generations[WORLD_AREAS];
static int host_busy, slots[GUESTS];
/* this configuration */
static int guest_count, host_sequence, order_pair;
static void (*mapper_run)(void *), (*world_reset)(void);

static const int orders[][GUESTS] = {{0, 9}, {9, 9}, {0, 0}, {6, 7}, {8, 0}};
static const char *const sequences[] = {"hard, grant", "hard, return", "soft, soft",
                                        "soft, hard, hard"};

static void become(uint32_t area, enum backing next)
{
    backing[area] = next;
    world_backed[area] = next == INSTALLED;
    world_mapped[area] = world_mapped[area] && next == INSTALLED;
}

/* ---- guest threads ---- */

static void use(int64_t frame, int order, int owner)
{
    for (int64_t f = frame; f < frame + (1 << order); f++) {
        uint32_t area = (uint32_t)(f / MC_AREA_FRAMES);
        mck_assert(owners[f] == 0, "a frame was handed out twice");
        mck_assert(world_backed[area], "a frame without backing was handed out");
        mck_assert(world_mapped[area] || !world_must_be_mapped, "a frame was not mapped first");
        owners[f] = (uint8_t)owner;
    }
}

static void guest(void *argument)
{
    int me = (int)(intptr_t)argument, order = orders[order_pair][me];
    int64_t frame = mc_frames_alloc(&world_frames, slots[me], order);
    if (frame >= 0) {
        use(frame, order, me + 1);
        memset(owners + frame, 0, (size_t)1 << order);
        mck_assert(mc_frames_free(&world_frames, slots[me], (uint64_t)frame, order) == MC_OK,
                   "a free was refused");
    } else {
        mck_assert(frame == MC_ENOMEM, "an allocation ended with a status it may not have");
    }
    mc_slot_drain(&world_frames, slots[me]);
}

int world_install(uint32_t area)
{
    if (host_busy)
        return MC_ETIMEOUT;
    host_busy = 1;
    if (backing[area] != INSTALLED) {
        mck_assert(backing[area] == SOFT, "INSTALL of an area that the host has taken");
        become(area, INSTALLED);
        mck_assert(mc_area_install(&world_frames, area, generations[area]) == MC_OK,
                   "an INSTALL was refused");
    }
    host_busy = 0;
    return MC_OK;
}

/* ---- the host: one transition at a time ---- */

static void take(uint32_t area, enum backing next)
{
    uint16_t generation = (uint16_t)(generations[area] + 1);
    host_busy = 1;
    if (next == HARD || backing[area] == INSTALLED) {
        int status = next == HARD ? mc_area_hard_reclaim(&world_frames, area, generation)
                                  : mc_area_soft_reclaim(&world_frames, area, generation);
        if (status == MC_OK) {
            for (uint32_t f = area * MC_AREA_FRAMES; f < (area + 1) * MC_AREA_FRAMES; f++)
                mck_assert(owners[f] == 0, "the host took an area in use");
            generations[area] = generation;
            become(area, next);
        }
    }
    host_busy = 0;
}

static void give_back(uint32_t area, enum backing next)
{
    host_busy = 1;
    if (backing[area] == HARD) {
        become(area, next);         /* before the guest can know */
        int status = next == INSTALLED
                         ? mc_area_grant(&world_frames, area, generations[area])
                         : mc_area_return(&world_frames, area, generations[area]);
        mck_assert(status == MC_OK, "the host could not give an area back");
    }
    host_busy = 0;
}

static void host(void *argument)
{
    (void)argument;
    switch (host_sequence) {
    case 0: take(0, HARD); give_back(0, INSTALLED); break;
    case 1: take(0, HARD); give_back(0, SOFT); break;
    case 2: take(0, SOFT); take(1, SOFT); break;
    default: take(0, SOFT); take(0, HARD); take(1, HARD);
    }
}

/* ---- executions ---- */

static void setup(void)
{
    memcpy(meta, fresh, (size_t)meta_bytes);
    memset(owners, 0, sizeof owners);
    for (uint32_t area = 0; area < WORLD_AREAS; area++) {
        become(area, INSTALLED);
        world_mapped[area] = generations[area] = 0;
    }
    host_busy = 0;
    if (world_reset)
        world_reset();
    for (int i = 0; i < guest_count; i++)
        mck_spawn(guest, (void *)(intptr_t)i);
    mck_spawn(host, NULL);
    if (mapper_run)
        mck_spawn(mapper_run, NULL);
}

static void final(void)
{
    struct mc_frames_statistics statistics;
    uint32_t where = 0, there = 0;
    mck_assert(mc_frames_validate(&world_frames, &where) == MC_OK, "validate() afterwards");
    mc_frames_statistics(&world_frames, &statistics);
    for (uint32_t area = 0; area < WORLD_AREAS; area++)
        there += backing[area] != HARD ? MC_AREA_FRAMES : 0;
    mck_assert(statistics.free_frames == there, "frames were lost, or made");
}

void world_make(mc_prepare_fn prepare, void *context, void (*reset)(void))
{
    meta_bytes = mc_meta_bytes(WORLD_AREAS);
    meta = aligned_alloc(PAGE_BYTES, (size_t)meta_bytes);
    fresh = aligned_alloc(PAGE_BYTES, (size_t)meta_bytes);
    memset(meta, 0, (size_t)meta_bytes);
    int wrong = mc_meta_format(meta, (uint64_t)meta_bytes, 1, WORLD_AREAS) != MC_OK ||
                mc_frames_bind(&world_frames, meta) != MC_OK;
    for (uint32_t area = 0; area < WORLD_AREAS && !wrong; area++)
        wrong = mc_area_grant(&world_frames, area, 0) != MC_OK;
    for (int i = 0; i < GUESTS && !wrong; i++)
        wrong = (slots[i] = mc_slot_claim(&world_frames, (uint32_t)i + 1)) < 0;
    if (wrong) {
        fprintf(stderr, "the region could not be made\n");
        exit(2);
    }
    world_frames.prepare = prepare;
    world_frames.prepare_context = context;
    world_reset = reset;
    memcpy(fresh, meta, (size_t)meta_bytes);
}

int world_explore(int guests, void (*mapper)(void *), int preemptions_max,
                  uint64_t executions_max)
{
    guest_count = guests;
    mapper_run = mapper;
    mck_preemptions_max = preemptions_max + mck_more;
    for (host_sequence = 0; host_sequence < 4; host_sequence++)
        for (order_pair = 0; order_pair < 5; order_pair++) {
            char name[96], second[16] = "";
            if (guests == 1 && order_pair == 2)
                continue;           /* alone, the same as pair 0 */
            if (guests > 1)
                snprintf(second, sizeof second, " and %d", orders[order_pair][1]);
            snprintf(name, sizeof name, "host: %s; order %d%s%s", sequences[host_sequence],
                     orders[order_pair][0], second, mapper ? "; mapper" : "");
            if (!mck_explore(setup, final, executions_max, name))
                return 0;
        }
    return 1;
}
