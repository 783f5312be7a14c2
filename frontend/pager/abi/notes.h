/* notes.h: what the program's threads tell the pager of their mappings; a ring without a lock.
 *
 * Owns:  the ring. A thread takes a ticket before the system call and fills it in afterwards, so
 *        the pager handles notes in the order in which the calls could have happened.
 * Rules: no lock, because a signal handler may run in the middle of it, and no system call, because
 *        it runs in every mmap. Notes carry no contents: see ranges.h.
 */
#ifndef MCP_NOTES_H
#define MCP_NOTES_H

#include <stdint.h>

enum mcp_note {
    MCP_NOTE_VOID = 0,      /* the call failed, or changed nothing */
    MCP_NOTE_NATIVE,        /* a mapping that is charged already */
    MCP_NOTE_TRACKED,       /* a mapping that is registered already */
    MCP_NOTE_RESERVED,
    MCP_NOTE_USABLE,        /* made readable and writable: what was reserved of it is claimed */
    MCP_NOTE_GONE
};

void mcp_notes_open(void);
uint64_t mcp_note_ticket(void);
void mcp_note_tell(uint64_t ticket, enum mcp_note what, uint64_t start, uint64_t end);
/* The pager: the next note that is filled in; 0 when there is none. */
int mcp_note_next(enum mcp_note *what, uint64_t *start, uint64_t *end);
/* In a forked child: tickets of threads that do not exist are void. */
void mcp_notes_reset(void);

#endif
