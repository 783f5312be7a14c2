/* What the guest's kernel says of its memory, as text for a report.
 *
 * Owns: which files are read. A figure that this kernel does not have is left out: the host takes
 * what is missing for unknown, never for 0. Called by agent.c.
 */
#ifndef MEMCOORD_READINGS_H
#define MEMCOORD_READINGS_H

#include <stddef.h>
#include <stdint.h>

/* Pages in use by the idle bits of the kernel, over the time between two looks. */
struct idle {
    int fd;               /* the kernel's bitmap; -1 where it has none */
    int64_t every_ms;     /* time between two looks; 0: none are wanted */
    int64_t due_ms;
    uint64_t marked;      /* pages that were marked idle at the last look */
    int64_t used_pages;   /* of those, pages that were used since; -1 until a second look */
};

/* Monotonic time since boot. */
int64_t now_ms(void);

/* Open the bitmap below `root`, which is "" on a real machine. */
void idle_open(struct idle *idle, const char *root);

/* Count and mark again, when that is due. */
void idle_look(struct idle *idle, int64_t now);

/* Write the fields of one report, `"key":number` and commas; the length, 0 if they do not fit. */
size_t readings(char *text, size_t room, const char *root, const struct idle *idle);

#endif
