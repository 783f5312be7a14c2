/* ranges.h: which mappings of the program the pager knows, and how each is charged.
 *
 * Owns:  a sorted list of ranges that do not overlap.
 *   native     charged whole, left to the kernel, not registered
 *   tracked    registered; its pages stand in the table and are charged one by one
 *   reserved   inaccessible so far (PROT_NONE): charged nothing; claimed by mprotect
 * Rules: the pager's thread alone. Contents depend on the table only: what is wrong here is wrongly
 *        charged, and never a wrong byte. When the list is full a range is left out: a native one
 *        is then nobody's charge, a tracked one is not paged out.
 */
#ifndef MCP_RANGES_H
#define MCP_RANGES_H

#include <stdint.h>

enum mcp_kind { MCP_NATIVE = 1, MCP_TRACKED = 2, MCP_RESERVED = 4, MCP_ANY = 7 };

struct mcp_range { uint64_t start, end; enum mcp_kind kind; };

void mcp_ranges_open(void);
int mcp_ranges_count(void);
struct mcp_range *mcp_range_at(int index);
/* Index of the first range that ends behind `address`. */
int mcp_range_find(uint64_t address);
/* Take [start, end) out of every range of `kinds` (a mask); native charges go. */
void mcp_ranges_cut(uint64_t start, uint64_t end, int kinds);
/* What of [start, end) is in no range becomes `kind`. */
void mcp_ranges_add(uint64_t start, uint64_t end, enum mcp_kind kind);
/* Every page of [start, end) that is there becomes resident; how many were not, for the caller to
 * charge. */
int64_t mcp_ranges_account(uint64_t start, uint64_t end);
/* A native range becomes tracked: charged for what is there. 0, or minus errno: it is forgotten. */
int mcp_range_track(struct mcp_range *range);

#endif
