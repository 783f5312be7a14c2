/* phases.h: a shorter trace with the same LRU misses, and its text.
 *
 * Owns:  the reduction. The references are cut into phases of a number of different pages. Of every
 *        page in a phase the first reference and the last one are kept; the last one has the flags
 *        of all that it stands for. A memory of at least as many pages as a phase has loses none
 *        of them within the phase, so its LRU misses are the same. For smaller memories, and for
 *        other replacement, the shorter trace is an approximation.
 * Rules: the arrays belong to the caller. Whoever takes `count` references has room for that many
 *        rows and two for every page of a phase. Page numbers are below the length of `places`.
 */
#ifndef MC_PHASES_H
#define MC_PHASES_H

#include "layout.h"

/* cdef-begin */
/* A reference that is kept, in a list by time. */
struct mc_phase_event {
    uint64_t at; /* its number in the trace, from 1; 0: none yet */
    uint32_t page;
    uint32_t flags;
    uint32_t before; /* numbers of events */
    uint32_t after;
};

struct mc_phases {
    uint32_t pages_max; /* different pages of a phase */
    uint32_t pages;     /* of this one, so far */
    uint32_t oldest;    /* events of this phase */
    uint32_t newest;
    uint64_t at;   /* references so far */
    uint64_t told; /* the number of the last one that was written out */
    /* Two for every page of a phase: number 2i its first reference, 2i + 1 its last. */
    struct mc_phase_event *events;
    uint32_t *places; /* by page: its number in the phase it was last seen in */
};

/* Rows of a trace: the page, the references since the row before, flags. */
struct mc_phase_rows {
    uint64_t *pages;
    uint64_t *dts;
    uint64_t *flags;
};

/* Take references in; returns how many rows were written out. */
uint64_t mc_phases_take(struct mc_phases *phases, const int32_t *pages, const uint8_t *flags,
                        uint64_t count, const struct mc_phase_rows *rows);
/* Write out what is left; returns how many rows that are. */
uint64_t mc_phases_end(struct mc_phases *phases, const struct mc_phase_rows *rows);

/* Longest line of `mc_phase_text`: three numbers of 20 digits. */
enum { MC_PHASE_LINE_BYTES_MAX = 63 };

/* Write `count` rows as lines "page,dt,flags" to `out`; returns how many bytes that are. */
uint64_t mc_phase_text(const struct mc_phase_rows *rows, uint64_t count, uint8_t *out);
/* cdef-end */

#endif
