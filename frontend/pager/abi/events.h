/* events.h: what the kernel tells of the program: changes of tracked memory, and faults.
 *
 * Owns:  the faults that were read while an event was looked for. Events are the truth about
 *        tracked memory; they are applied as soon as they are read.
 * Rules: the pager's thread alone.
 */
#ifndef MCP_EVENTS_H
#define MCP_EVENTS_H

#include <linux/userfaultfd.h>

/* Read what the program's userfaultfd has, and apply events and notes. Faults wait for
 * mcp_events_serve. How many messages were read. */
int mcp_events_read(void);
/* Serve every fault that waits. How many. */
int mcp_events_serve(void);
/* The same while the table may not change, because a fork copies it: pages are filled, and entered
 * by mcp_events_thaw. The forking thread itself may have to touch a page before it forks. */
void mcp_events_serve_frozen(void);
void mcp_events_thaw(void);
void mcp_events_open(void);
/* The userfaultfd of a child that was forked since the last call, or -1. */
int mcp_events_child(void);
/* An event that another process read for this one, some time ago. */
void mcp_events_late(const struct uffd_msg *message);
/* In a forked child: the faults that wait are the parent's. */
void mcp_events_forget(void);

#endif
