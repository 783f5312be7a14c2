/* fault.h: bringing pages in when the program touches them.
 *
 * Owns:  the streams: where the program walks, a window of pages each that doubles while a fault
 *        continues it. Several arrays are walked at once, so there are several streams.
 * Rules: the pager's thread alone.
 */
#ifndef MCP_FAULT_H
#define MCP_FAULT_H

#include <stdint.h>

/* Serve a fault of the program at `address`. 0, or -EAGAIN: an event must be read first. */
int mcp_fault_serve(uint64_t address);
/* Fill the page, for the process of `fd`, and leave the table as it is: it is being copied. A new
 * page reads as zeroes, whatever the table says. */
void mcp_fault_serve_frozen(int fd, uint64_t address, int is_new);

#endif
