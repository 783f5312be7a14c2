/* content.c: see content.h. */
#include "content.h"

#define MC_CONTENT_STEP UINT64_C(0xd1342543de82ef95)

_Static_assert(MC_CONTENT_WORDS * 8 == MC_FRAME_BYTES, "the words fill a page");

/* splitmix64's finaliser: a bijection, so distinct inputs stay distinct. */
static uint64_t mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

static uint64_t first_word(uint64_t domain, uint64_t page, uint64_t version)
{
    return mix(mix(mix(domain + 1) + page) + version);
}

void mc_content_fill(uint64_t address, uint64_t domain, uint64_t page, uint64_t version)
{
    uint64_t *words = (uint64_t *)(uintptr_t)address;
    uint64_t word = first_word(domain, page, version);

    for (uint64_t k = 0; k < MC_CONTENT_WORDS; k++)
        words[k] = word + k * MC_CONTENT_STEP;
}

int mc_content_check(uint64_t address, uint64_t domain, uint64_t page, uint64_t version)
{
    const uint64_t *words = (const uint64_t *)(uintptr_t)address;
    uint64_t word = first_word(domain, page, version);
    uint64_t wrong = 0;

    /* The whole page first, without a branch per word: it is right nearly always. */
    for (uint64_t k = 0; k < MC_CONTENT_WORDS; k++)
        wrong |= words[k] ^ (word + k * MC_CONTENT_STEP);
    if (!wrong)
        return -1;
    for (uint64_t k = 0; k < MC_CONTENT_WORDS; k++)
        if (words[k] != word + k * MC_CONTENT_STEP)
            return (int)k;
    return -1;
}
