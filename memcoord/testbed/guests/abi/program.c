/* program.c: see program.h. */
#include "program.h"

#include <time.h>

#define MC_PROGRAM_STEP UINT64_C(0xd1342543de82ef95)
#define LAST_WORD ((uint64_t)MC_PROGRAM_WORDS - 1)
#define USE_WRITE 1             /* enum mc_use of frontend/abi/paging.h */
#define USE_CAME 2
#define USE_FIRST 4
#define CALIBRATIONS 20
#define CALIBRATION_STEPS 20000

_Static_assert(MC_PROGRAM_WORDS * 8 == MC_FRAME_BYTES, "the words fill a page");

/* splitmix64's finaliser: a bijection, so distinct inputs stay distinct. */
static inline uint64_t mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

static inline uint64_t first(uint64_t domain, uint64_t page)
{
    return mix((domain + 1) * UINT64_C(0x9e3779b97f4a7c15) + page);
}

static inline uint64_t word_of(uint64_t start, uint64_t k, uint64_t version)
{
    return start + (version - ((version - k) & LAST_WORD)) * MC_PROGRAM_STEP;
}

void mc_program_fill(uint64_t address, uint64_t domain, uint64_t page, uint64_t version)
{
    uint64_t *words = (uint64_t *)(uintptr_t)address;
    uint64_t start = first(domain, page);
    for (uint64_t k = 0; k < MC_PROGRAM_WORDS; k++)
        words[k] = word_of(start, k, version);
}

int mc_program_check(uint64_t address, uint64_t domain, uint64_t page, uint64_t version)
{
    const uint64_t *words = (const uint64_t *)(uintptr_t)address;
    uint64_t start = first(domain, page), wrong = 0;
    /* The whole page first, without a branch per word: it is right nearly always. */
    for (uint64_t k = 0; k < MC_PROGRAM_WORDS; k++)
        wrong |= words[k] ^ word_of(start, k, version);
    if (!wrong)
        return -1;
    for (uint64_t k = 0; k < MC_PROGRAM_WORDS; k++)
        if (words[k] != word_of(start, k, version))
            return (int)k;
    return -1;
}

static inline uint64_t work(uint64_t value, uint64_t steps)
{
    for (; steps > 0; steps--) {
        value = value * MC_PROGRAM_STEP + 1;
        __asm__ volatile("" : "+r"(value));     /* one after the other, and none left out */
    }
    return value;
}

static int64_t found_wrong(struct mc_program *program, uint32_t page, uint64_t version, int word)
{
    program->wrong_page = page;
    program->wrong_version = version;
    program->wrong_word = (uint32_t)word;
    return 1;
}

int64_t mc_program_use(void *context, uint64_t address, uint64_t *version, uint32_t page,
                       uint32_t how)
{
    struct mc_program *program = context;
    uint64_t *words = (uint64_t *)(uintptr_t)address, now = *version;
    if (now == 0 && how & USE_FIRST) {
        mc_program_fill(address, program->domain, page, *version = 1);
    } else {
        uint64_t start = first(program->domain, page);
        now += now == 0;
        if (how & USE_CAME) {
            int word = mc_program_check(address, program->domain, page, now);
            if (word >= 0)
                return found_wrong(program, page, now, word);
        } else if (words[now & LAST_WORD] != start + now * MC_PROGRAM_STEP) {
            return found_wrong(program, page, now, (int)(now & LAST_WORD));
        }
        program->verified++;
        if (how & USE_WRITE) {
            now++;
            words[now & LAST_WORD] = start + now * MC_PROGRAM_STEP;
        }
        *version = now;
    }
    if (program->work)
        program->worked = work(program->worked, program->work);
    return 0;
}

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

uint64_t mc_program_steps(uint64_t ns)
{
    uint64_t best_ns = UINT64_MAX, value = 1;
    for (int i = 0; i < CALIBRATIONS; i++) {
        uint64_t begin_ns = clock_ns();
        value = work(value, CALIBRATION_STEPS);
        uint64_t took_ns = clock_ns() - begin_ns + (value == 0);
        best_ns = took_ns < best_ns ? took_ns : best_ns;
    }
    return best_ns ? ns * CALIBRATION_STEPS / best_ns : ns;
}
