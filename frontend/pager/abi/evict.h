/* evict.h: taking pages out of the program.
 *
 * Owns:  the clock hand, and where a page that is taken out goes: nowhere when it is all zeroes, to
 *        tmem, to the swap file when tmem refuses it.
 * Rules: the pager's thread alone. A run is moved into the staging pages in one call each, so no
 *        thread of the program can write a page between its last read and its store. Slots are
 *        taken before pages are moved: a page that has been moved out has a place.
 */
#ifndef MCP_EVICT_H
#define MCP_EVICT_H

#include <stdint.h>

/* Take out up to MCP_RUN_PAGES pages. How many frames came free; 0: nothing can be taken now;
 * -EAGAIN: an event must be read first. */
int mcp_evict(void);
/* Evict until `pages` may be charged; gives up after a bounded time in which nothing could be
 * taken, since another process of the domain may have it all. 0, or -EAGAIN. */
int mcp_evict_for(int64_t pages);
/* Whether the hand is past that page, and comes to it in its next sweep only. */
int mcp_evict_has_passed(uint64_t page);

#endif
