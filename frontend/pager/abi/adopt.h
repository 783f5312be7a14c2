/* adopt.h: what a forked process makes of its copy of the parent's books.
 *
 * Owns:  the pages that are common to the two, the scan that finds those that are no more, and the
 *        room that is kept for them.
 * Rules: the child's pager alone. A common page is charged to the parent. Once its frame is mapped
 *        in one place only, whoever has written, it is charged to the process that has it, and may
 *        be taken out. A copy is there before it is found: so a reserve is charged ahead, most at
 *        the fork, then as much as copies are found; what goes beyond it gets room first, and what
 *        no room can be made for is counted as forced.
 */
#ifndef MCP_ADOPT_H
#define MCP_ADOPT_H

/* All that is there is common; every known mapping is tracked from now on. */
void mcp_adopt_all(void);
/* One step of the scan, unless it has had its share of the pager's time. */
void mcp_adopt_more(void);

#endif
