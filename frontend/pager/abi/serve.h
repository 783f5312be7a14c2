/* serve.h: the pager's thread.
 *
 * Owns:  its loop, its table of descriptors (a program that closes all of its own must not close
 *        the userfaultfd: pages that are out would read as zeroes), and its end, which is the end
 *        of the process.
 */
#ifndef MCP_SERVE_H
#define MCP_SERVE_H

/* Start the thread, and wait until it serves, with descriptors of its own. */
void mcp_serve_start(void);

#endif
