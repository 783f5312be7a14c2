/* connect.h: becoming a process of the domain: a connection to the command, a row, descriptors.
 *
 * Owns:  the address of the command's socket, and descriptors passed over sockets.
 * Rules: every wait ends after MCP_CALL_NS. A connection stands for a row: it is closed when the
 *        process ends or executes another program, and then the command buries the row. A process
 *        that may not enable events of its userfaultfd itself has the command do it.
 */
#ifndef MCP_CONNECT_H
#define MCP_CONNECT_H

#define MCP_HANDED_FDS 6

/* What the command answers; rows below 0 are refusals. `device` may make userfaultfds. */
struct mcp_handed { int connection, row, family, ram, meta, bell, swap, device; };

/* Remember the command's socket; 0, or minus errno when the path is no address. */
int mcp_connect_open(const char *path);
/* 0, or minus errno. */
int mcp_connect(struct mcp_handed *handed);
/* Have the command enable `uffd` with the features of all programs; 0, or minus errno. */
int mcp_connect_enable(int connection, int uffd);
/* Send `count` descriptors with one byte; receive as many, within the bound. 0, or minus errno. */
int mcp_send_fds(int socket, const int *fds, int count);
int mcp_receive_fds(int socket, int *row, int *fds, int count);

#endif
