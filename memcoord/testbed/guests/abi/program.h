/* program.h: what a replayed program does with each page that it refers to.
 *
 * Owns:  the content of a program's pages, and the work between two references. Version 1 is the
 *        page as it was filled first; each write is the next version and changes one word:
 *
 *          word k of version v holds  first(domain, page) + last(k, v) * MC_PROGRAM_STEP,
 *          last(k, v) = v - ((v - k) mod 512), the last version that changed word k
 *
 *        So a page of another domain, another page, an older version, a torn copy and a flipped bit
 *        all differ from what is expected, and a write is one store.
 * Rules: mc_program_use is of type mc_use_fn (frontend/abi/paging.h), which says what its arguments
 *        are. A page that came from somewhere is verified whole; a page that was in memory by the
 *        word that was written last. A page with no version that was not touched first is one of
 *        the program's file, of version 1.
 */
#ifndef MC_PROGRAM_H
#define MC_PROGRAM_H

#include "layout.h"

/* cdef-begin */
#define MC_PROGRAM_WORDS 512

struct mc_program {
    uint64_t domain;        /* tells its pages from those of every other */
    uint64_t work;          /* steps of work after each reference */
    uint64_t verified;      /* references whose page was verified */
    uint64_t worked;        /* what the work came to, so that it is done */
    uint64_t wrong_version; /* of the page that was wrong */
    uint32_t wrong_page;
    uint32_t wrong_word;    /* its first wrong word */
};

/* 0, or 1 when the page is wrong. */
int64_t mc_program_use(void *program, uint64_t address, uint64_t *version, uint32_t page,
                       uint32_t how);
void mc_program_fill(uint64_t address, uint64_t domain, uint64_t page, uint64_t version);
/* Index of the first word that is wrong, or -1 when all are right. */
int mc_program_check(uint64_t address, uint64_t domain, uint64_t page, uint64_t version);
/* Steps of work that take `ns` when nothing else uses this CPU; measured now, in about 2 ms. */
uint64_t mc_program_steps(uint64_t ns);
/* cdef-end */

#endif
