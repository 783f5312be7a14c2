/* say.h: what the pager tells its user, and how it ends a program.
 *
 * Owns:  one line on standard error, in one write, without stdio (which allocates).
 * Rules: a pager that cannot go on ends its process: without it a page that is out would read as
 *        zeroes. So mcp_die never returns.
 */
#ifndef MCP_SAY_H
#define MCP_SAY_H

#define MCP_EXIT_LOST 97    /* exit code of a program that its pager ended */

/* "memcoord: <what>" and, unless it is 0, the number. */
void mcp_say(const char *what, long number);
__attribute__((noreturn, cold)) void mcp_die(const char *what, long number);

#endif
