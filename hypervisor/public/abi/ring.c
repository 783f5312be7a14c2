/* ring.c: see ring.h for the protocol and its steps. */
#include "ring.h"

#include "check.h"

#include <string.h>

#define RING_MASK ((uint32_t)(MC_RING_SLOTS - 1))

/* Copy a record once. The fence keeps the compiler from reading the shared slot again where the
 * code reads the copy: the peer may change the slot at any time. */
static void record_copy(struct mc_record *to, const struct mc_record *from)
{
    memcpy(to, from, sizeof *to);
    atomic_signal_fence(memory_order_seq_cst);
}

static void record_fill(struct mc_ring *ring, uint32_t index, const struct mc_record *record)
{
    struct mc_record filled = *record;
    filled.seq = index;
    record_copy(&ring->slots[index & RING_MASK], &filled);
}

/* Step 2 and 3 (5 for a response): make [old, new) visible, then look whether the peer sleeps. The
 * fence pairs with the one in consumer_announce(): one of the two sides sees the other's store. */
static int producer_publish(_Atomic uint32_t *producer, const _Atomic uint32_t *event,
                            uint32_t *published, uint32_t new)
{
    uint32_t old = *published;
    MC_CHECK(new - old <= MC_RING_SLOTS, "%u records filled, %u published", new, old);
    if (new == old)
        return 0;
    *published = new;
    atomic_store_explicit(producer, new, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    return new - atomic_load_explicit(event, memory_order_relaxed) < new - old;
}

/* Step 6: ask for a bell at the next record, then look once more. */
static int consumer_announce(_Atomic uint32_t *event, const _Atomic uint32_t *producer,
                             uint32_t consumed)
{
    atomic_store_explicit(event, consumed + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(producer, memory_order_acquire) != consumed;
}

void mc_ring_format(struct mc_ring *ring)
{
    memset(ring, 0, sizeof *ring);
    atomic_store_explicit(&ring->req_event, 1, memory_order_relaxed);
    atomic_store_explicit(&ring->rsp_event, 1, memory_order_relaxed);
    /* As if a lap had gone before, so that a torn slot is recognised in the first lap, too. */
    for (uint32_t i = 0; i < MC_RING_SLOTS; i++)
        ring->slots[i].seq = i - MC_RING_SLOTS;
}

void mc_front_bind(struct mc_front *front, struct mc_ring *ring)
{
    *front = (struct mc_front){.ring = ring};
}

void mc_back_bind(struct mc_back *back, struct mc_ring *ring)
{
    *back = (struct mc_back){.ring = ring};
}

uint32_t mc_front_outstanding(const struct mc_front *front)
{
    return front->req_prod - front->rsp_cons;
}

int mc_front_push(struct mc_front *front, const struct mc_record *request)
{
    uint32_t outstanding = mc_front_outstanding(front);
    MC_CHECK(outstanding <= MC_RING_SLOTS, "%u requests sent, %u answered", front->req_prod,
             front->rsp_cons);
    if (outstanding >= MC_RING_SLOTS)
        return MC_EFULL;
    record_fill(front->ring, front->req_prod++, request);
    return MC_OK;
}

int mc_front_publish(struct mc_front *front)
{
    return producer_publish(&front->ring->req_prod, &front->ring->req_event,
                            &front->req_published, front->req_prod);
}

int mc_front_pop(struct mc_front *front, struct mc_record *response)
{
    uint32_t cons = front->rsp_cons;
    uint32_t ready = atomic_load_explicit(&front->ring->rsp_prod, memory_order_acquire) - cons;
    if (ready == 0)
        return 0;
    MC_CHECK(front->req_published - cons <= MC_RING_SLOTS, "%u requests published, %u answered",
             front->req_published, cons);
    if (ready > front->req_published - cons)
        return MC_ERUNAWAY;
    record_copy(response, &front->ring->slots[cons & RING_MASK]);
    if (response->seq != cons)
        return MC_ETORN;
    front->rsp_cons = cons + 1;
    return 1;
}

int mc_front_arm(struct mc_front *front)
{
    return consumer_announce(&front->ring->rsp_event, &front->ring->rsp_prod, front->rsp_cons);
}

int mc_back_pending(const struct mc_back *back)
{
    uint32_t prod = atomic_load_explicit(&back->ring->req_prod, memory_order_acquire);
    uint32_t unanswered = back->req_cons - back->rsp_published;
    MC_CHECK(unanswered <= MC_RING_SLOTS, "%u requests taken, %u answered", back->req_cons,
             back->rsp_published);
    if (prod == back->req_cons)
        return 0;
    /* A request that was consumed and is not answered yet occupies its slot. */
    return prod - back->req_cons > MC_RING_SLOTS - unanswered ? MC_ERUNAWAY : 1;
}

int mc_back_pop(struct mc_back *back, struct mc_record *request)
{
    uint32_t cons = back->req_cons;
    int pending = mc_back_pending(back);
    if (pending != 1)
        return pending;
    record_copy(request, &back->ring->slots[cons & RING_MASK]);
    if (request->seq != cons)
        return MC_ETORN;
    if (back->taken && request->op) {
        record_copy(back->taken, request);
        back->taken->status = 0;
        atomic_signal_fence(memory_order_seq_cst);
    }
    back->req_cons = cons + 1;
    return 1;
}

int mc_back_push(struct mc_back *back, const struct mc_record *response)
{
    MC_CHECK(back->req_cons - back->rsp_prod <= MC_RING_SLOTS, "%u requests taken, %u responses",
             back->req_cons, back->rsp_prod);
    if (back->rsp_prod == back->req_cons)
        return MC_EFULL;
    record_fill(back->ring, back->rsp_prod, response);
    back->rsp_prod++;           /* after the response, if this process is killed in between */
    return MC_OK;
}

int mc_back_publish(struct mc_back *back)
{
    return producer_publish(&back->ring->rsp_prod, &back->ring->rsp_event, &back->rsp_published,
                            back->rsp_prod);
}

int mc_back_arm(struct mc_back *back)
{
    return consumer_announce(&back->ring->req_event, &back->ring->req_prod, back->req_cons);
}
