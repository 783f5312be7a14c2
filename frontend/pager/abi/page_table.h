/* page_table.h: where each page of the program is.
 *
 * Owns:  one word per page of tracked memory, in leaves of 1 GiB of addresses, mapped when used.
 * Rules: the pager's thread alone. A page that is not in the table is MCP_NONE: it reads as zeroes
 *        when the program touches it, or is the kernel's business.
 */
#ifndef MCP_PAGE_TABLE_H
#define MCP_PAGE_TABLE_H

#include <stdint.h>

/* MCP_COMMON: there, shared with the process that forked this one, and not charged to it. */
enum mcp_state { MCP_NONE = 0, MCP_RESIDENT, MCP_TMEM, MCP_DISK, MCP_COMMON };

/* A word: state 3 bits, level 2 bits, slot 27 bits; of a resident page a sweep: see recency.h. */
static inline uint32_t mcp_word_of(enum mcp_state state, uint32_t level, uint32_t slot)
{
    return (uint32_t)state | level << 3 | slot << 5;
}
static inline enum mcp_state mcp_state_of(uint32_t word)
{
    return (enum mcp_state)(word & 7);
}
static inline uint32_t mcp_level_of(uint32_t word)
{
    return word >> 3 & 3;
}
static inline uint32_t mcp_slot_of(uint32_t word)
{
    return word >> 5;
}
static inline int mcp_is_outside(uint32_t word)
{
    return mcp_state_of(word) == MCP_TMEM || mcp_state_of(word) == MCP_DISK;
}

void mcp_table_open(void);
uint32_t mcp_table_at(uint64_t page);
void mcp_table_set(uint64_t page, uint32_t word);
/* The first page from `page` on, before `end`, that may have a word: skips what has no leaf. */
uint64_t mcp_table_next(uint64_t page, uint64_t end);
/* Pages [page, end) are no more: their slots and charges go. */
void mcp_table_forget(uint64_t page, uint64_t end);

#endif
