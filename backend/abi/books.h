/* books.h: the memory that outlives a hypervisor, and where it lies.
 *
 * Owns:  the addresses, and the order of things in the books: a memfd that has struct mc_host and,
 *        per domain, a slot with all that the hypervisor keeps about that domain.
 * Rules: whoever holds the memfds (a keeper process) can have another process go on with them
 *        (recover.h). So everything in the books lies at one address in every such process, and no
 *        pointer of the books leads out of these ranges but the few that mc_host_recover makes
 *        anew: own, mechanism, tmem, dom0. A host without books lies wherever the C library puts
 *        it; several of those can live in one process.
 *        A process can be killed between any two instructions. What is written last of a step is
 *        what makes the step count: MC_BOOKED stands before it and keeps the compiler from moving
 *        writes across. (Process kill, not power loss: the kernel shows the next process the writes
 *        in the order of the program, so no fence of the CPU is needed.)
 */
#ifndef MC_BOOKS_H
#define MC_BOOKS_H

#include "host.h"

/* cdef-begin */
/* Clear of where Linux puts programs, heaps, stacks and libraries on x86-64 and on aarch64 with 48
 * bits of addresses, and of the shadow memory of AddressSanitizer. */
#define MC_BOOKS_ADDRESS 0x200000000000
#define MC_DOMAINS_ADDRESS 0x300000000000
#define MC_DOMAIN_STRIDE 0x2000000000
#define MC_META_OFFSET 0x1000000000         /* of a domain's meta, from its ram */

/* Of the books: a header, then struct mc_host, the slab areas of tmem, a slot per domain. */
#define MC_BOOKS_VERSION 3
#define MC_BOOKS_MAGIC 0x736b6f6f62636d01
#define MC_BOOKS_HOST_OFFSET 0x1000
#define MC_BOOKS_SLAB_OFFSET 0x400000
#define MC_BOOKS_SLAB_AREAS_MAX 0x800000
#define MC_BOOKS_SLOTS_OFFSET 0x1000000
#define MC_BOOKS_SLOT_BYTES 0x800000
#define MC_BOOKS_BYTES 0x21000000

struct mc_books {
    uint64_t magic;
    uint64_t layout;            /* mc_books_layout() of the program that made the books */
    uint64_t bytes;
};

/* What the order of things in the books depends on, as one number: books can be used by a program
 * with the same number only. */
uint64_t mc_books_layout(void);

/* The memory of one domain's private state. open: 0, or MC_ENOMEM; zeroes. take: the next `bytes`
 * of it, which the caller has counted by mc_slot_room for open. */
int mc_slot_open(struct mc_host *host, struct mc_domain *domain, uint64_t bytes);
void *mc_slot_take(struct mc_domain *domain, uint64_t bytes);
void mc_slot_close(struct mc_host *host, struct mc_domain *domain);
/* cdef-end */

/* Map a memfd of MC_BOOKS_BYTES at its address; or -errno. */
int64_t mc_books_map(int books_fd);

/* What was written before this counts before what is written after. */
#define MC_BOOKED() atomic_signal_fence(memory_order_seq_cst)

/* 1 when the host has books. */
static inline int mc_has_books(const struct mc_host *host)
{
    return host->own->books_fd >= 0;
}

static inline uint64_t mc_ram_place(const struct mc_domain *domain)
{
    return MC_DOMAINS_ADDRESS + (uint64_t)domain->domid * MC_DOMAIN_STRIDE;
}

/* Map a domain's file: at `place` when the host has books, else anywhere; or -errno. */
int64_t mc_books_map_file(const struct mc_host *host, int fd, uint64_t bytes, uint64_t place);

/* Around a swap of the guest's word, and what follows from it: an area that comes to the guest gets
 * the state `next` (MC_A_STATES: it goes). The process may be killed in between (recount.c). */
static inline void mc_step_begin(struct mc_host *host, const struct mc_domain *domain,
                                 uint32_t area, int next, int hollow)
{
    MC_CHECK(!host->step.domain, "domain %u, area %u: the step of area %u is not done",
             domain->domid, area, host->step.area);
    host->step.area = area;
    host->step.next = (uint32_t)next;
    host->step.hollow = (uint32_t)hollow;
    MC_BOOKED();
    host->step.domain = domain->domid + 1;
    MC_BOOKED();
}

static inline void mc_step_done(struct mc_host *host)
{
    MC_BOOKED();
    host->step.domain = 0;
    MC_BOOKED();
}

/* Bytes that mc_slot_take uses up for so many. */
static inline uint64_t mc_slot_room(uint64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

#endif
