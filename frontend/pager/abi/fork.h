/* fork.h: a process that forks.
 *
 * Owns:  the pager's standstill, from the wish to fork to the word of the child's own pager.
 *   1. the forking thread holds the locks of the C library, waits until no thread changes mappings,
 *      and asks (in the place of _Fork, which glibc has since 2.34)
 *   2. the pager gets a row for the child, counts every page outside for it, and stands still: its
 *      table does not change, so the child's copy of it is right
 *   3. the kernel hands the pager the child's userfaultfd, which goes to the child over a socket;
 *      the faults of both are served without a change of the table, until the child's own pager
 *      says that it runs. What the child gives up meanwhile (its C library frees the stacks of
 *      threads that are no more) is passed on to it
 * The child: what it shares with its parent is its parent's charge, until a page is its own alone
 * (the child wrote it, or the parent did); a slow scan of the pagemap finds those.
 * vfork and posix_spawn share the address space and need nothing. A process that forks by a system
 * call of its own is not served: its child is killed at its first fault, before it reads zeroes.
 */
#ifndef MCP_FORK_H
#define MCP_FORK_H

/* Whether the C library has the place where a fork can be held up. */
int mcp_fork_is_possible(void);
void mcp_fork_open(void (*start_thread)(void));
/* The pager: the standstill, if one is wanted. */
void mcp_fork_stand_still(void);
/* The child's pager, first of all. */
void mcp_fork_adopt(void);
/* The pager, when idle: children that were forked past us. */
void mcp_fork_tend(void);

#endif
