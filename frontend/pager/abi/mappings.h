/* mappings.h: what the program's threads told of their mappings, applied; and the gate.
 *
 * Owns:  the gate, which the program's threads pass to change a mapping. The pager closes it while
 *        it takes pages out: an address that was unmapped and mapped anew meanwhile, as a stack,
 *        would lose its pages. It closes it only when no thread is inside, and never waits: a
 *        thread inside may be waiting for the pager.
 * Rules: notes are applied before the events that were read with them. A mapping that is told and
 *        unmapped in between must not be left in the list; the reverse, a new mapping that falls
 *        out of the list, costs its charge only.
 */
#ifndef MCP_MAPPINGS_H
#define MCP_MAPPINGS_H

#include <stdint.h>

/* The program's threads. */
void mcp_gate_enter(void);
void mcp_gate_leave(void);
/* The same for a thread that moves mappings: no other may be inside. An address is free before the
 * kernel tells that it was unmapped, so a mapping that is moved there in between would be taken for
 * the one that is no more, and lose its pages. Signals wait meanwhile: a handler may map memory. */
void mcp_gate_enter_alone(uint64_t *signals);
void mcp_gate_leave_alone(const uint64_t *signals);

/* The pager. close: 1, with every note applied; 0: not now, read events first. */
int mcp_gate_close(void);
void mcp_gate_open(void);
void mcp_notes_apply(void);

#endif
