/* tmem.h: the domain's tmem, from any process of the domain.
 *
 * Owns:  the tmem ring's frontend while the family's lock is held, and the staging frames of ram.
 * Rules: a holder killed between its request and the answer leaves answers that nobody waits for,
 *        and the hypervisor may still write a staging frame for them: the next holder waits for
 *        all of them before it uses the frames. Every wait ends after MCP_CALL_NS, or when the
 *        hypervisor is gone; then the process ends, since its pages cannot be had.
 * Who may call: slots.c, evict.c, fault.c; one thread of a process at a time.
 */
#ifndef MCP_TMEM_H
#define MCP_TMEM_H

#include "family.h"

/* Put pages[k] under slots[k], count <= MCP_RUN_PAGES. Bit k of the answer: page k was taken. */
uint64_t mcp_tmem_put(struct mcp_member *member, const uint32_t *slots,
                      const uint8_t *const *pages, int count);
/* Hold the lock with page slots[k] in staging frame k. mcp_tmem_release lets go. */
void mcp_tmem_get(struct mcp_member *member, const uint32_t *slots, int count);
void mcp_tmem_release(struct mcp_member *member);
/* Forget, and hold the lock: the caller changes the slots' owners before it lets go. */
void mcp_tmem_lock(struct mcp_member *member);
void mcp_tmem_flush(struct mcp_member *member, const uint32_t *slots, int count);

#endif
