/* als.c: in-memory analytics: alternating least squares over ratings.
 *
 * als --ratings FILE [--memory MIB] [--iterations N] [--runs N] [--pause MS] [--seed N]
 *
 * FILE has lines `user,item,rating`, such as those of MovieLens. They are replicated (pattern.h)
 * until `--memory` is filled: every rating of the product is a real one, but not who gave it.
 * An iteration solves for every user, then for every item: one unit of work. A run builds all,
 * iterates and gives its memory back; between two runs the program rests.
 */
#include "app.h"
#include "pattern.h"
#include "sparse.h"

#include <math.h>
#include <stdio.h>

/* Factors of a user and of an item. */
#define RANK 8
#define SQUARE (RANK * RANK)
#define REGULARISATION 0.1f
/* Copies of the items; of the cells of the pattern, so many in a thousand are there. */
#define ITEM_BLOCKS 4
#define PRESENT_OF_1000 500
#define ROW_BLOCKS_MAX 100000

struct ratings {
    struct sparse by_user, by_item;
};

/* In place: the Cholesky factor of `square`, then the solution of square x = `right` in `right`. */
static void solve(float *square, float *right)
{
    for (int i = 0; i < RANK; i++) {
        for (int j = 0; j <= i; j++) {
            float sum = square[i * RANK + j];

            for (int k = 0; k < j; k++)
                sum -= square[i * RANK + k] * square[j * RANK + k];
            square[i * RANK + j] = i == j ? sqrtf(sum) : sum / square[j * RANK + j];
        }
    }
    for (int i = 0; i < RANK; i++) {
        for (int k = 0; k < i; k++)
            right[i] -= square[i * RANK + k] * right[k];
        right[i] /= square[i * RANK + i];
    }
    for (int i = RANK - 1; i >= 0; i--) {
        for (int k = i + 1; k < RANK; k++)
            right[i] -= square[k * RANK + i] * right[k];
        right[i] /= square[i * RANK + i];
    }
}

/* The best factors of each row of `matrix`, given those of its columns. */
static void half(const struct sparse *matrix, const float *columns, float *rows)
{
    for (size_t row = 0; row < matrix->rows; row++) {
        float square[SQUARE] = {0}, right[RANK] = {0};
        size_t first = matrix->starts[row], end = matrix->starts[row + 1];

        for (size_t at = first; at < end; at++) {
            const float *other = &columns[(size_t)matrix->targets[at] * RANK];

            for (int i = 0; i < RANK; i++) {
                right[i] += matrix->values[at] * other[i];
                for (int j = 0; j < RANK; j++)
                    square[i * RANK + j] += other[i] * other[j];
            }
        }
        for (int i = 0; i < RANK; i++)
            square[i * RANK + i] += REGULARISATION * (float)(end - first) + 1e-3f;
        solve(square, right);
        for (int i = 0; i < RANK; i++)
            rows[row * RANK + (size_t)i] = right[i];
    }
}

static struct ratings base_of(const char *path)
{
    size_t count, users, items;
    struct entry *entries = sparse_read(path, 0, &count, &users, &items);
    struct ratings made;

    made.by_user = sparse_of(entries, count, users, items, 1);
    sparse_turn(entries, count);
    made.by_item = sparse_of(entries, count, items, users, 1);
    app_return(entries, count * sizeof *entries);
    return made;
}

/* What a run of so many blocks of users touches. */
static size_t needs(const struct ratings *base, const struct pattern *pattern)
{
    size_t people = pattern->rows * base->by_user.rows + pattern->columns * base->by_item.rows;
    size_t each = sizeof(uint32_t) + sizeof(float);

    return 2 * pattern->ones * base->by_user.entries * each +
           people * (RANK * sizeof(float) + sizeof(uint64_t));
}

static struct pattern pattern_of(const struct ratings *base, size_t memory, uint64_t seed)
{
    struct pattern pattern = {0};

    for (size_t blocks = 1; blocks <= ROW_BLOCKS_MAX; blocks++) {
        pattern = pattern_make(blocks, ITEM_BLOCKS, PRESENT_OF_1000, seed);
        if (needs(base, &pattern) >= memory)
            return pattern;
        app_return(pattern.cells, pattern.rows * pattern.columns);
    }
    app_fail("the data are too small for so much memory");
}

/* One run: the hash of the factors at its end. */
static uint64_t run(const struct ratings *base, const struct pattern *pattern, uint64_t iterations,
                    uint64_t seed)
{
    struct ratings all = {sparse_replicated(&base->by_user, pattern, 0),
                          sparse_replicated(&base->by_item, pattern, 1)};
    size_t of_users = all.by_user.rows * RANK * sizeof(float);
    size_t of_items = all.by_item.rows * RANK * sizeof(float);
    float *users = app_memory(of_users), *items = app_memory(of_items);
    uint64_t before = sparse_hash(&all.by_item, sparse_hash(&all.by_user, 1)), factors;

    for (size_t at = 0; at < all.by_item.rows * RANK; at++)
        items[at] = (float)(app_random(&seed) >> 40) / (float)(1 << 24);
    for (uint64_t done = 0; done < iterations; done++) {
        half(&all.by_user, items, users);
        half(&all.by_item, users, items);
        app_unit();
    }
    if (sparse_hash(&all.by_item, sparse_hash(&all.by_user, 1)) != before)
        app_fail("wrong bytes: the ratings in memory have changed");
    factors = app_hash(app_hash(before, users, of_users), items, of_items);
    app_return(users, of_users);
    app_return(items, of_items);
    sparse_return(&all.by_user);
    sparse_return(&all.by_item);
    return factors;
}

int main(int count, char **words)
{
    static const char *const known[] = {"--ratings", "--memory", "--iterations", "--runs",
                                        "--pause",   "--seed",   NULL};
    const char *path;
    uint64_t seed, runs, sum = 0;
    struct ratings base;
    struct pattern pattern;

    app_only(count, words, known);
    path = app_word(count, words, "--ratings");
    if (!path)
        app_fail("--ratings FILE is missing: lines of user,item,rating");
    seed = app_number(count, words, "--seed", 1);
    runs = app_number(count, words, "--runs", 1);
    base = base_of(path);
    pattern = pattern_of(&base, app_number(count, words, "--memory", 512) * APP_MIB, seed);
    for (uint64_t done = 0; done < runs; done++) {
        uint64_t found;

        if (done)
            app_pause((double)app_number(count, words, "--pause", 5000) / 1e3);
        found = run(&base, &pattern, app_number(count, words, "--iterations", 10), seed);
        if (done && found != sum)
            app_fail("wrong bytes: two runs over the same data differ");
        sum = found;
    }
    app_done(needs(&base, &pattern), sum);
    return 0;
}
