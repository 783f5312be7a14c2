/* ring.h: both ends of a shared ring, and when to ring the doorbell.
 *
 * Protocol (Xen's public io/ring.h), frontend sending, backend serving:
 *   1. FE  fills slots[req_prod & mask] with seq = req_prod; repeats for a batch.
 *   2. FE  release-stores req_prod. Full fence. Reads req_event.
 *   3. FE  rings the bell only if req_event lies in (old req_prod, new req_prod]: the backend has
 *          announced that it sleeps until that request.
 *   4. BE  acquire-loads req_prod, copies each record out, checks the copy, serves it.
 *   5. BE  writes the response into the slot of its request (or of an earlier one it has served),
 *          release-stores rsp_prod, fence, and rings the guest's bell by the same rule.
 *   6. Before it sleeps, a side stores event = cons + 1, full fence, and looks once more. It sleeps
 *          only if there is still nothing. So no wake-up can be lost: either the sleeper sees the
 *          index, or the producer sees the event.
 * A frontend never has more than MC_RING_SLOTS requests outstanding (sent minus answered), so a
 * response always finds its slot free.
 *
 * Each end keeps private indices, in mc_front and mc_back; a shared word is there for the peer to
 * see, and no end reads back a word that it wrote. The checks of ring.c look at private indices
 * only. A req_prod behind the requests consumed, or more than MC_RING_SLOTS ahead of the requests
 * answered, is MC_ERUNAWAY; a record whose seq is not its index is MC_ETORN. Both are final for the
 * ring: the caller detaches the domain.
 *
 * Who may call: one thread per end at a time.
 */
#ifndef MC_RING_H
#define MC_RING_H

#include "layout.h"

/* cdef-begin */
struct mc_front {
    struct mc_ring *ring;
    uint32_t req_prod;      /* requests filled, perhaps not published yet */
    uint32_t req_published;
    uint32_t rsp_cons;
    uint32_t pad;
};

struct mc_back {
    struct mc_ring *ring;
    uint32_t req_cons;
    uint32_t rsp_prod;      /* responses filled, perhaps not published yet */
    uint32_t rsp_published;
    uint32_t pad;
    struct mc_record *taken;    /* pop leaves a copy here before it consumes the request, for who
                                 * goes on when this process is killed; not of op 0. Or NULL */
};

void mc_ring_format(struct mc_ring *ring);
/* Both ends start where mc_ring_format left the ring. A ring in use cannot be bound again. */
void mc_front_bind(struct mc_front *front, struct mc_ring *ring);
void mc_back_bind(struct mc_back *back, struct mc_ring *ring);

/* Frontend. push: 0, or MC_EFULL. publish: 1 when the caller must ring the bell, else 0. */
int mc_front_push(struct mc_front *front, const struct mc_record *request);
int mc_front_publish(struct mc_front *front);
/* pop: 1 and a copy, 0 when empty, MC_ERUNAWAY or MC_ETORN (seq checked as well). */
int mc_front_pop(struct mc_front *front, struct mc_record *response);
/* arm: announce the sleep; 1 when something has arrived meanwhile (do not sleep), else 0. */
int mc_front_arm(struct mc_front *front);
/* Requests pushed and not answered. */
uint32_t mc_front_outstanding(const struct mc_front *front);

/* Backend, the same. push: 0, or MC_EFULL when every request consumed has its response. */
int mc_back_pop(struct mc_back *back, struct mc_record *request);
int mc_back_push(struct mc_back *back, const struct mc_record *response);
int mc_back_publish(struct mc_back *back);
int mc_back_arm(struct mc_back *back);
/* 1 when a request waits, 0 when none, MC_ERUNAWAY; consumes nothing. */
int mc_back_pending(const struct mc_back *back);
/* cdef-end */

#endif
