/* malformed.h: records that no correct guest sends, as many as the rings take.
 *
 * Owns:  the loop behind `memcoord bench chaos --records`, which runs in the cheating process.
 * Rules: as cheat.h. Every record must be answered within MCC_ANSWER_NS_MAX, whatever it says; both
 *        rings are kept full meanwhile, so a record may wait behind MC_RING_SLOTS others.
 */
#ifndef MC_MALFORMED_H
#define MC_MALFORMED_H

#include "cheat.h"

/* cdef-begin */
#define MCC_ANSWER_NS_MAX 30000000000ull

/* Send up to `count` records of any operation, with random words, over both rings. Returns how many
 * were answered: fewer than `count` when the hypervisor hangs up, and own->unanswered says how many
 * records then had no answer within the time. */
uint64_t mcc_malformed(struct mcc_attachment *own, uint64_t count);
/* cdef-end */

#endif
