/* recency.h: how long a page that came back is left alone.
 *
 * Owns:  the number of the sweep (the hand passes all pages once in each), and a page's level.
 * No bit tells that a page of private memory was read. What tells is that it came back: its slot
 * says how many pages went out since it did, because slots are handed out in order. A page that
 * came back sooner than others do rises, one that came back late falls by a level; the level goes
 * along with the page, out and in, and is worth 1, 2, 8 or 32 sweeps. So a page that is used all
 * the time is taken out, to be asked about, once in 32 sweeps and not in every second.
 * Rules: the pager's thread alone. The word of a resident page holds the sweep from which on it may
 *        be taken in the place of a slot; 0 is always.
 */
#ifndef MCP_RECENCY_H
#define MCP_RECENCY_H

#include <stdint.h>

/* The word of a page that has come in. `outside`: its word before; `asked`: the program waits for
 * it, it is not only read ahead; `passed`: the hand has passed it in this sweep. */
uint32_t mcp_recency_in(uint32_t outside, int asked, int passed);
/* The word of a resident page that cannot be taken now: `word` with some sweeps of rest. */
uint32_t mcp_recency_rest(uint32_t word);
/* Whether a resident page may be taken. */
int mcp_recency_is_cold(uint32_t word);
/* The hand has passed a resident page that it left. */
void mcp_recency_left(uint32_t word);
/* The hand begins anew. `took`: pages were taken in the sweep that ends; else the next one is that
 * in which some may be. */
void mcp_recency_sweep(int took);

#endif
