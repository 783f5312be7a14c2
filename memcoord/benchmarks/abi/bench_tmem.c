/* bench_tmem.c: see bench_tmem.h. */
#include "bench_tmem.h"

#include "bench_ring.h"

#include <string.h>

#define PAGE_BYTES 4096
#define FUTEX_WAIT_NS 1000000000ull

typedef int64_t (*execute_fn)(uint64_t state, uint64_t record, uint64_t page, int64_t client,
                              int64_t may_ask);

/* One step of the walk: which page of the set, and which of the block. */
struct step { uint32_t page, at; };

static struct step next_step(struct mcb_set *set)
{
    struct step step = {set->order[set->next], set->next % set->block};

    if (++set->next == set->pages)
        set->next = 0;
    return step;
}

static uint64_t address_of(const struct mcb_set *set, struct step step)
{
    return set->memory + (uint64_t)step.at * PAGE_BYTES;
}

static void stamp(struct mcb_set *set, int op, uint32_t ops)
{
    if (op != MC_OP_PUT || !set->stamp)
        return;
    for (uint32_t i = 0; i < ops; i++) {
        struct step step = {0, (set->next + i) % set->pages % set->block};

        *(uint64_t *)address_of(set, step) = ++set->stamp;
    }
}

static void name_page(struct mc_record *record, int op, uint32_t slot, const struct mcb_set *set,
                      uint32_t page)
{
    record->op = (uint16_t)op;
    record->arg[0] = slot | (uint64_t)(page % MCB_OBJECT_PAGES) << 32;
    record->arg[1] = page / MCB_OBJECT_PAGES + 1;
    record->arg[2] = set->object;
    record->arg[3] = 0;
}

int mcb_memcpy(struct mcb_set *set, int op, uint64_t store, uint64_t *samples, uint32_t count,
               uint32_t ops)
{
    for (uint32_t s = 0; s < count; s++) {
        stamp(set, op, ops);
        uint64_t start = mc_clock_ns();
        for (uint32_t i = 0; i < ops; i++) {
            struct step step = next_step(set);
            void *ours = (void *)address_of(set, step);
            void *theirs = (void *)(store + (uint64_t)step.page * PAGE_BYTES);

            memcpy(op == MC_OP_PUT ? theirs : ours, op == MC_OP_PUT ? ours : theirs, PAGE_BYTES);
            __asm__ volatile("" ::: "memory"); /* so that no copy is left out */
        }
        samples[s] = mc_clock_ns() - start;
    }
    return MC_OK;
}

int mcb_tmem(const struct mcb_pool *pool, int op, struct mcb_set *set, uint64_t *samples,
             uint32_t count, uint32_t ops)
{
    execute_fn execute = (execute_fn)pool->execute;
    struct mc_record record = {0};

    for (uint32_t s = 0; s < count; s++) {
        stamp(set, op, ops);
        uint64_t start = mc_clock_ns();
        for (uint32_t i = 0; i < ops; i++) {
            struct step step = next_step(set);

            name_page(&record, op, pool->slot, set, step.page);
            int64_t code = execute(pool->state, (uint64_t)&record, address_of(set, step),
                                   pool->client, 0);
            if (code != 1)
                return MC_ESTATE;
        }
        samples[s] = mc_clock_ns() - start;
    }
    return MC_OK;
}

int mcb_ring_tmem(struct mc_guest *guest, int op, uint32_t slot, struct mcb_set *set,
                  uint64_t *samples, uint32_t count, uint32_t ops, uint64_t rest_ns)
{
    struct mc_record records[MC_RING_SLOTS] = {0};

    if (ops < 1 || ops > MC_RING_SLOTS)
        return MC_EINDEX;
    for (uint32_t s = 0; s < count; s++) {
        stamp(set, op, ops);
        if (rest_ns)
            mcb_rest(rest_ns);
        uint64_t start = mc_clock_ns();
        for (uint32_t i = 0; i < ops; i++) {
            struct step step = next_step(set);

            name_page(&records[i], op, slot, set, step.page);
            records[i].arg[4] = set->first_frame + step.at;
        }
        int status = mc_guest_call(guest, MC_RING_TMEM, records, ops);
        samples[s] = mc_clock_ns() - start;
        if (status < 0)
            return status;
        for (uint32_t i = 0; i < ops; i++)
            if (records[i].status != 1)
                return MC_ESTATE;
    }
    return MC_OK;
}

static uint32_t seen(uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

int mcb_futex_call(struct mcb_bells *bells, uint64_t *samples, uint32_t count, uint64_t rest_ns)
{
    if (!seen(bells->answer)) /* the other end has yet to begin */
        mc_bell_wait(&bells->answer[0], &bells->answer[1], 0, FUTEX_WAIT_NS);
    for (uint32_t s = 0; s < count; s++) {
        uint32_t before = seen(bells->answer);

        mcb_rest(rest_ns);
        uint64_t start = mc_clock_ns();
        mc_bell_ring(&bells->call[0], &bells->call[1]);
        int status = mc_bell_wait(&bells->answer[0], &bells->answer[1], before, FUTEX_WAIT_NS);
        samples[s] = mc_clock_ns() - start;
        if (status < 0)
            return status;
    }
    return MC_OK;
}

int mcb_futex_echo(struct mcb_bells *bells)
{
    uint32_t before = seen(bells->call);

    mc_bell_ring(&bells->answer[0], &bells->answer[1]); /* listening from here on */
    for (;;) { /* bounded by its process */
        int status = mc_bell_wait(&bells->call[0], &bells->call[1], before, FUTEX_WAIT_NS);

        if (status == MC_ETIMEOUT)
            continue;
        if (status < 0)
            return status;
        before++;
        mc_bell_ring(&bells->answer[0], &bells->answer[1]);
    }
}
