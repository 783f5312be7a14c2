/* usemem.c: memory that grows in steps, all of it swept from front to back again and again.
 *
 * usemem [--step MIB] [--most MIB] [--sweeps N]
 *
 * After each step all that there is, is swept `--sweeps` times; a sweep is one unit of work. It
 * reads and writes every word, and a word that is not what the sweep before left ends the program.
 */
#include "app.h"

#define STEPS_MAX 4096

struct part {
    uint64_t *words;
    uint64_t sweeps; /* that it has been through */
};

static uint64_t word_of(size_t part, size_t at, uint64_t sweeps)
{
    return (((uint64_t)part << 40 | at) + 1) * UINT64_C(0x9e3779b97f4a7c15) + sweeps;
}

static void part_fill(struct part *part, size_t number, size_t bytes)
{
    part->words = app_memory(bytes);
    part->sweeps = 0;
    for (size_t at = 0; at < bytes / sizeof *part->words; at++)
        part->words[at] = word_of(number, at, 0);
}

static uint64_t part_sweep(struct part *part, size_t number, size_t bytes)
{
    uint64_t wrong = 0, sum = 0;

    for (size_t at = 0; at < bytes / sizeof *part->words; at++) {
        wrong |= part->words[at] ^ word_of(number, at, part->sweeps);
        sum += ++part->words[at];
    }
    if (wrong)
        app_fail("wrong bytes: memory is not what the last sweep left");
    part->sweeps++;
    return sum;
}

int main(int count, char **words)
{
    static const char *const known[] = {"--step", "--most", "--sweeps", NULL};
    static struct part parts[STEPS_MAX];
    uint64_t sweeps, checksum = 1;
    size_t step, most, steps = 0;

    app_only(count, words, known);
    step = app_number(count, words, "--step", 128) * APP_MIB;
    most = app_number(count, words, "--most", 1024) * APP_MIB;
    sweeps = app_number(count, words, "--sweeps", 4);
    if (most / step > STEPS_MAX || most < step)
        app_fail("--most must be one to 4096 times --step");
    while ((steps + 1) * step <= most) {
        part_fill(&parts[steps], steps, step);
        steps++;
        for (uint64_t done = 0; done < sweeps; done++) {
            for (size_t part = 0; part < steps; part++)
                checksum = checksum * 31 + part_sweep(&parts[part], part, step);
            app_unit();
        }
    }
    app_done(steps * step, checksum);
    return 0;
}
