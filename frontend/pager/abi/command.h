/* command.h: the library as `memcoord exec` uses it, through ctypes: the family from outside.
 *
 * Owns:  the family that this process keeps for one domain. There is one at a time.
 * Rules: one thread. The command has no row: it charges nothing.
 */
#ifndef MCP_COMMAND_H
#define MCP_COMMAND_H

#include <stdint.h>

uint64_t mcp_command_family_bytes(uint64_t slots);
/* Format the family in a file of that size and join it; 0, or minus errno. */
int mcp_command_open(int family_fd, int ram_fd, int meta_fd, int bell_fd, uint64_t meta_bytes,
                     uint64_t slots, uint32_t staging_frame, uint32_t pool);
void mcp_command_close(void);
void mcp_command_limit(int64_t pages);
/* The hypervisor is gone: every process of the domain ends. */
void mcp_command_gone(void);
void mcp_command_bury(int row);
/* Figure number `index` and its name; -1 and NULL behind the last. */
int64_t mcp_command_figure(int index, const char **name);
/* Pages that the process of that row is charged for. */
int64_t mcp_command_row_pages(int row);
/* What a fault waited at most, in that many of 1000 cases. */
uint64_t mcp_command_wait_ns(uint64_t permille);

#endif
