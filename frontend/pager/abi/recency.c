/* recency.c: see recency.h. */
#include "recency.h"

#include "page_table.h"
#include "pager.h"

#define LEVEL_MOST 3
#define SWEEP_BITS 27
#define SWEEPS (1u << SWEEP_BITS)   /* numbers go round; half of them are behind */
#define REST_SWEEPS 3
/* Back soon: after fewer pages went out than on average, divided by this. */
#define SOON 3
#define SOONER 6
#define AT_ONCE 16
#define AVERAGE_OF 256              /* the last so many, about */

static const uint32_t sweeps_of[LEVEL_MOST + 1] = {1, 2, 8, 32};
static uint32_t sweep = 1, left_least = SWEEPS;
static int64_t gone_mean;           /* pages that go out before one comes back, on average */

static uint32_t sweep_after(uint32_t sweeps)
{
    uint32_t number = (sweep + sweeps) % SWEEPS;
    return number ? number : 1;
}

/* Sweeps until the page may be taken; 0 for one that may. */
static uint32_t sweeps_left(uint32_t word)
{
    uint32_t from = mcp_slot_of(word), left = (from - sweep) % SWEEPS;
    return !from || left >= SWEEPS / 2 ? 0 : left;
}

static uint32_t level_after(uint32_t level, int64_t gone)
{
    int64_t mean = gone_mean;
    gone_mean += (gone - mean) / AVERAGE_OF;
    if (gone * AT_ONCE < mean)
        return LEVEL_MOST;
    if (gone * SOONER < mean && level + 1 < LEVEL_MOST)
        return LEVEL_MOST - 1;
    if (gone * SOON < mean)
        return level + (level < LEVEL_MOST);
    return level - (gone > mean && level > 0);
}

uint32_t mcp_recency_in(uint32_t outside, int asked, int passed)
{
    const struct mcp_family *family = mcp_self.member.family;
    uint32_t level = mcp_level_of(outside);
    uint64_t hand = atomic_load_explicit(&family->hand, memory_order_relaxed);
    uint64_t gone = (hand + family->slots - mcp_slot_of(outside)) % family->slots;
    if (asked)
        level = level_after(level, (int64_t)gone);
    uint32_t sweeps = asked ? sweeps_of[level] : 1;
    return mcp_word_of(MCP_RESIDENT, level, sweep_after(sweeps + (passed != 0)));
}

uint32_t mcp_recency_rest(uint32_t word)
{
    return mcp_word_of(MCP_RESIDENT, mcp_level_of(word), sweep_after(REST_SWEEPS));
}

int mcp_recency_is_cold(uint32_t word)
{
    return mcp_state_of(word) == MCP_RESIDENT && sweeps_left(word) == 0;
}

void mcp_recency_left(uint32_t word)
{
    uint32_t left = sweeps_left(word);
    if (left && left < left_least)
        left_least = left;
}

void mcp_recency_sweep(int took)
{
    sweep = sweep_after(took || left_least == SWEEPS ? 1 : left_least);
    left_least = SWEEPS;
}
