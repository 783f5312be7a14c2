/* pager.h: the state of a process's pager.
 *
 * Owns:  mcp_self, the one global of the library: there is one pager to a process.
 * Rules: the program's threads (hooks.c) read `member`, `uffd` and the flags and write `notes`;
 *        everything else is the pager thread's alone. In a forked child all of it is a copy.
 */
#ifndef MCP_PAGER_H
#define MCP_PAGER_H

#include "family.h"

#define MCP_LATER_MAX 4096
#define MCP_FD_FIRST 700    /* programs close low numbers, and count on low ones being free */

struct mcp_pager {
    struct mcp_member member;
    int uffd;                   /* of the program's memory, with events */
    int stage_uffd;             /* of `stage`; without events, or the pager would wait for itself */
    int pagemap;
    int swap_fd;
    int device;                 /* makes userfaultfds where this process may not, if it is one */
    int connection;             /* to the command; its end is the command's, or ours */
    int wake_fd;                /* an eventfd: the program's threads wake the pager */
    int child_row;              /* of the process that is being forked */
    int is_child;               /* forked, and its memory is not taken over yet */
    int fork_socket;            /* in a child, until then: to the parent's pager */
    uint8_t *stage;             /* pages on their way out, MCP_RUN_PAGES */
    uint8_t *bounce;            /* pages on their way in from the swap file */
    uint8_t *zeroes;
    _Atomic int is_on;          /* hooks tell the pager what they see */
    /* [a fork] */
    _Atomic uint32_t frozen;    /* enum mcp_freeze */
    _Atomic uint32_t changing;  /* threads inside a call that changes mappings */
};

/* The gate (mappings.h). A fork is wanted by a thread; ready: no other thread changes mappings;
 * frozen: the pager stands still. Closed: by the pager, for a moment. Moving: a thread moves
 * mappings, and no other is inside. */
enum mcp_freeze {
    MCP_RUNNING = 0, MCP_WANTED = 1, MCP_READY = 2, MCP_FROZEN = 3, MCP_CLOSED = 4, MCP_MOVING = 5
};

extern struct mcp_pager mcp_self;

/* Open what a process has of its own: staging, descriptors. Ends the process when refused. */
void mcp_pager_open_stage(void);
/* From a thread of the program: have the pager look. */
void mcp_pager_wake(void);
/* The program's table of descriptors keeps two of ours: uffd and wake_fd. */
void mcp_pager_close_private(void);
/* fd at a number above MCP_FD_FIRST, closed on exec; the old number is closed. */
int mcp_fd_high(int fd);

#endif
