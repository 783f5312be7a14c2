/* bench_guest.h: a guest's paging over a stream, and what it cannot be quicker than.
 *
 * Owns:  compiled loops around mc_paging_run, and its floors: a loop that touches the same pages,
 *        the kernel's minor fault, the copies of a hit, reads of the swap file.
 * Rules: a sample is the nanoseconds of `ops` operations. Every loop takes pages in the order of a
 *        given array of numbers, so that all of them meet caches and TLB in the same way.
 */
#ifndef MC_BENCH_GUEST_H
#define MC_BENCH_GUEST_H

#include "paging.h"

/* cdef-begin */
/* What the program of a paging does at each reference. */
enum mcb_program { MCB_NOTHING = 0, MCB_TOUCH = 1, MCB_FILL = 2 };

/* A stream of `pages` numbers, again and again; `next` is where the next loop goes on. */
struct mcb_stream {
    const int32_t *order;
    const uint8_t *writes;
    uint32_t pages;
    uint32_t next;
};

/* `count` samples; the guest rests before each. Faults stay under way between samples, as in one
 * run, but not at the end. 0, a negative enum mc_status, or MC_PAGING_FAILED. */
int mcb_paging(struct mc_paging *paging, struct mcb_stream *stream, int program,
               uint64_t *samples, uint32_t count, uint32_t ops, uint64_t rest_ns);
/* One word of page order[i] of `memory`, as MCB_TOUCH does. */
int mcb_touches(const void *memory, struct mcb_stream *stream, uint64_t *samples, uint32_t count,
              uint32_t ops);
/* Page order[i] of `from` to page order[i] of `to`, and back to the next page of `from`. */
int mcb_copy_twice(void *to, void *from, struct mcb_stream *stream, uint64_t *samples,
                   uint32_t count, uint32_t ops);
/* First touches of pages. is_file: they lie in a file already, as pages of a domain do; else they
 * are zeroed. */
int mcb_minor_faults(int is_file, uint64_t *samples, uint32_t count, uint32_t ops);
/* Reads of page order[i] of a file, `ops` at once. */
int mcb_disk_reads(int fd, struct mcb_stream *stream, uint64_t *samples, uint32_t count,
                   uint32_t ops);
/* cdef-end */

#endif
