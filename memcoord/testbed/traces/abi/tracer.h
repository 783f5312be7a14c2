/* tracer.h: references in the output of programs that trace memory.
 *
 * Owns:  what a line of valgrind's lackey (--trace-mem=yes) and of `perf script` says. A line is a
 *        reference, or none (a blank line, valgrind's own messages, comments), or wrong.
 * Rules: as in table.h. Addresses are bytes; whoever calls divides.
 */
#ifndef MC_TRACER_H
#define MC_TRACER_H

#include "table.h"

/* cdef-begin */
/* Write the address and the flags of the first `most` references of `part` to two arrays. `*ended`
 * is where the last line that was read ends. Returns how many references there are, or minus the
 * number of the first line (1 is the part's first) that is wrong. */
int64_t mc_tracer_lackey(const struct mc_table_part *part, uint64_t *addresses, uint64_t *flags,
                         uint64_t most, uint64_t *ended);
/* The same; the address is the first word behind the event's name, which ends with a colon and
 * stands behind the time; where neither was printed, the first word of the line. */
int64_t mc_tracer_perf(const struct mc_table_part *part, uint64_t *addresses, uint64_t *flags,
                       uint64_t most, uint64_t *ended);
/* cdef-end */

#endif
