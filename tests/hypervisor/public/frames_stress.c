/* frames_stress.c: what several processes do to one region, and how a mistake shows.
 *
 *   frames_stress worker REGION TABLE ID SEED OPS MIX
 *   frames_stress host   REGION TABLE SEED
 *
 * REGION and TABLE are inherited memfds. Every frame has a tag in the table: a block is tagged
 * after it was handed out and untagged before it is freed, each by compare-and-swap, so a frame
 * that two holders were given at once fails a swap. Blocks change hands through a mailbox: most are
 * freed by a process that did not allocate them. A worker ends after OPS operations or when told to
 * stop, and frees what it holds; the host, when told. The exit code says what went wrong.
 */
#include "claims.h"
#include "reclaim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define WORKERS 8
#define MAILBOX 32
#define HELD 256
#define BATCH 100
#define RUN_KIND 10
#define TAG_KINDS 32

enum { FINE, USAGE, TWICE, UNTAGGED, REFUSED, MISPLACED, STOLEN, HOST };

struct table {
    _Atomic uint64_t stop;
    uint64_t pad[7];
    _Atomic uint64_t ops[WORKERS];          /* calls made */
    _Atomic uint64_t given[WORKERS];        /* of these, allocations that got memory */
    _Atomic uint64_t transitions[8];        /* by the host: hard, soft, return, grant, install */
    _Atomic uint64_t mailbox[MAILBOX];      /* blocks without a holder, or 0 */
    uint8_t rest[4096 - 64 * 4 - MAILBOX * 8];
    _Atomic uint32_t tags[];
};

_Static_assert(offsetof(struct table, tags) == 4096, "the test reads tags there");

struct worker {
    struct mc_frames frames;
    struct table *table;
    uint64_t seed;
    uint64_t held[HELD];
    uint32_t count;
    int slot;
    int id;
};

static uint64_t draw(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void *map_fd(int fd, uint64_t *bytes)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        exit(USAGE);
    *bytes = (uint64_t)status.st_size;
    void *memory = mmap(NULL, *bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        exit(USAGE);
    return memory;
}

static void bind_region(struct mc_frames *frames, int fd)
{
    uint64_t bytes;
    struct mc_control *control = map_fd(fd, &bytes);
    if (mc_meta_check(control, bytes, control->ram_bytes) != 0)
        exit(USAGE);
    mc_frames_bind(frames, control);
}

/* kind 0..9: an order; above: a run of kind - 9 areas. A block is one word, never 0. */
static uint64_t count_of(uint32_t kind)
{
    return kind < RUN_KIND ? 1u << kind : (kind - RUN_KIND + 2) * (uint64_t)MC_AREA_FRAMES;
}

static void tag(struct worker *self, uint64_t frame, uint32_t kind)
{
    uint32_t word = (uint32_t)frame * TAG_KINDS + kind + 1;
    uint64_t count = count_of(kind), size = count < MC_AREA_FRAMES ? count : MC_AREA_FRAMES;
    if (frame % size != 0 || frame + count > (uint64_t)self->frames.area_count * MC_AREA_FRAMES)
        exit(MISPLACED);
    for (uint64_t k = 0; k < count; k++) {
        uint32_t nobody = 0;
        if (!atomic_compare_exchange_strong(&self->table->tags[frame + k], &nobody, word))
            exit(TWICE);
    }
}

static void untag(struct worker *self, uint64_t frame, uint32_t kind)
{
    uint32_t word = (uint32_t)frame * TAG_KINDS + kind + 1;
    for (uint64_t k = 0; k < count_of(kind); k++) {
        uint32_t seen = word;
        if (!atomic_compare_exchange_strong(&self->table->tags[frame + k], &seen, 0))
            exit(UNTAGGED);
    }
}

static void free_block(struct worker *self, uint64_t block)
{
    uint64_t frame = block / TAG_KINDS;
    uint32_t kind = (uint32_t)(block % TAG_KINDS) - 1;
    untag(self, frame, kind);
    int status = kind < RUN_KIND
                     ? mc_frames_free(&self->frames, self->slot, frame, (int)kind)
                     : mc_frames_free_areas(&self->frames, self->slot, frame, kind - RUN_KIND + 2);
    if (status != MC_OK)
        exit(REFUSED);
}

static void free_any(struct worker *self)
{
    uint32_t at = (uint32_t)(draw(&self->seed) % self->count);
    uint64_t block = self->held[at];
    self->held[at] = self->held[--self->count];
    if (draw(&self->seed) % 2)      /* give this one away, free what another process left */
        block = atomic_exchange(&self->table->mailbox[draw(&self->seed) % MAILBOX], block);
    if (block)
        free_block(self, block);
}

static void alloc_any(struct worker *self, int mix)
{
    uint64_t choice = draw(&self->seed) % 100;
    uint32_t kind = choice < 70 || mix == 0 ? 0 : (uint32_t)(draw(&self->seed) % 10);
    if (choice == 99 && mix)
        kind = RUN_KIND + (uint32_t)(draw(&self->seed) % 3);
    int64_t frame = kind < RUN_KIND ? mc_frames_alloc(&self->frames, self->slot, (int)kind)
                                    : mc_frames_alloc_areas(&self->frames, self->slot,
                                                            kind - RUN_KIND + 2);
    if (frame == MC_ENOMEM)
        return;
    if (frame < 0)
        exit(REFUSED);
    tag(self, (uint64_t)frame, kind);
    self->held[self->count++] = (uint64_t)frame * TAG_KINDS + kind + 1;
    atomic_fetch_add_explicit(&self->table->given[self->id], 1, memory_order_relaxed);
}

static void batch(struct worker *self)
{
    uint32_t frames[BATCH];
    int status;
    uint64_t count = 1 + draw(&self->seed) % BATCH;
    int64_t given = mc_frames_alloc_many(&self->frames, self->slot, frames, count);
    for (int64_t k = 0; k < given; k++)
        tag(self, frames[k], 0);
    for (int64_t k = 0; k < given; k++)
        untag(self, frames[k], 0);
    if (mc_frames_free_many(&self->frames, self->slot, frames, (uint64_t)given, &status) != given)
        exit(REFUSED);
}

/* The hypervisor cannot take an area while it is being prepared; and preparing may fail. */
static int prepare(void *context, uint32_t area, uint32_t word)
{
    struct worker *self = context;
    uint32_t now = __atomic_load_n(&self->frames.areas[area], __ATOMIC_ACQUIRE);
    if ((now & MC_AREA_RECLAIMED) || (word ^ now) >> 16)
        exit(STOLEN);
    return draw(&self->seed) % 64 ? MC_OK : MC_ETIMEOUT;
}

static int work(char **argument)
{
    static struct worker self;
    uint64_t bytes;
    bind_region(&self.frames, atoi(argument[0]));
    self.table = map_fd(atoi(argument[1]), &bytes);
    self.id = atoi(argument[2]);
    self.seed = strtoull(argument[3], NULL, 10);
    uint64_t ops = strtoull(argument[4], NULL, 10);
    int mix = atoi(argument[5]);
    self.frames.prepare = prepare;
    self.frames.prepare_context = &self;
    self.slot = mc_slot_claim(&self.frames, (uint32_t)self.id + 1);
    if (self.slot < 0)
        return USAGE;
    for (uint64_t op = 1; op <= ops && !atomic_load(&self.table->stop); op++) {
        uint32_t room = (uint32_t)(draw(&self.seed) % HELD);
        if (op % 512 == 0)
            batch(&self);
        else if (op % 8191 == 0)
            mc_slot_drain(&self.frames, self.slot);
        else if (self.count <= room)
            alloc_any(&self, mix);
        else
            free_any(&self);
        atomic_store_explicit(&self.table->ops[self.id], op, memory_order_relaxed);
    }
    while (self.count > 0)
        free_block(&self, self.held[--self.count]);
    return mc_slot_release(&self.frames, self.slot) == MC_OK ? FINE : REFUSED;
}

/* The word said wholly free: then no bit, no head and no holder may say otherwise. */
static void check_empty(const struct mc_frames *frames, struct table *table, uint32_t area)
{
    for (uint32_t row = area * MC_AREA_ROWS; row < (area + 1) * MC_AREA_ROWS; row++)
        if (__atomic_load_n(&frames->rows[row], __ATOMIC_ACQUIRE) != 0)
            exit(STOLEN);
    for (uint32_t k = 0; k < MC_AREA_FRAMES; k++)
        if (table->tags[area * MC_AREA_FRAMES + k] != 0
            || mc_head_taken(mc_head(frames, (uint64_t)area * MC_AREA_FRAMES + k)))
            exit(STOLEN);
}

/* What the hypervisor would keep privately: see reclaim.h. */
enum { HARD, SOFT, INSTALLED };
static uint8_t state[MC_MAX_AREAS];
static uint16_t generations[MC_MAX_AREAS];

static int transit(struct mc_frames *frames, struct table *table, uint32_t area, uint64_t choice)
{
    uint16_t same = generations[area], next = (uint16_t)(same + 1);
    int status, kind, after;
    if (state[area] == HARD && choice % 2) {
        kind = 2, after = SOFT;
        status = mc_area_return(frames, area, same);
    } else if (state[area] == HARD) {
        kind = 3, after = INSTALLED;
        status = mc_area_grant(frames, area, same);
    } else if (state[area] == SOFT && choice % 2) {
        kind = 4, after = INSTALLED;
        status = mc_area_install(frames, area, same);
    } else if (state[area] == INSTALLED && choice % 4 == 0) {
        kind = 1, after = SOFT;
        status = mc_area_soft_reclaim(frames, area, next);
    } else {
        kind = 0, after = HARD;
        status = mc_area_hard_reclaim(frames, area, next);
        if (status == MC_OK)
            check_empty(frames, table, area);
    }
    /* While the guest behaves, only taking can lose a race. */
    if (status != MC_OK)
        return status == MC_ESTATE && (kind == 0 || kind == 1) ? FINE : HOST;
    state[area] = (uint8_t)after;
    generations[area] = kind < 2 ? next : same;
    atomic_fetch_add_explicit(&table->transitions[kind], 1, memory_order_relaxed);
    return FINE;
}

static int host(char **argument)
{
    struct mc_frames frames;
    uint64_t bytes, seed = strtoull(argument[2], NULL, 10);
    bind_region(&frames, atoi(argument[0]));
    struct table *table = map_fd(atoi(argument[1]), &bytes);
    memset(state, INSTALLED, sizeof state);
    while (!atomic_load(&table->stop)) {
        uint32_t area = (uint32_t)(draw(&seed) % frames.area_count);
        int status = transit(&frames, table, area, draw(&seed));
        if (status != FINE)
            return status;
    }
    for (uint32_t area = 0; area < frames.area_count; area++)
        if (state[area] == HARD && mc_area_return(&frames, area, generations[area]) != MC_OK)
            return HOST;
    return FINE;
}

int main(int count, char **argument)
{
    if (count == 8 && strcmp(argument[1], "worker") == 0)
        return work(argument + 2);
    if (count == 5 && strcmp(argument[1], "host") == 0)
        return host(argument + 2);
    fprintf(stderr, "usage: see the first lines of the source\n");
    return USAGE;
}
