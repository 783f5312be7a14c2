/* content.h: what a page of a workload must hold, so that one wrong byte is noticed.
 *
 * Owns:  the rule that makes 4096 bytes out of (domain, page, version): word k is
 *        mix(domain, page, version) + k * MC_CONTENT_STEP, for k in 0..511. A page of another
 *        domain, another page, an older version, a torn copy and a flipped bit all differ.
 * Rules: the address is a page of the caller's own mapping, 8-byte aligned; nobody else writes it
 *        meanwhile. Both functions touch all of it.
 */
#ifndef MC_CONTENT_H
#define MC_CONTENT_H

#include "layout.h"

/* cdef-begin */
#define MC_CONTENT_WORDS 512

void mc_content_fill(uint64_t address, uint64_t domain, uint64_t page, uint64_t version);
/* Index of the first word that is wrong, or -1 when all are right. */
int mc_content_check(uint64_t address, uint64_t domain, uint64_t page, uint64_t version);
/* cdef-end */

#endif
