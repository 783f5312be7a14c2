/* pagerank.c: graph analytics: PageRank, pull form.
 *
 * pagerank [--edges FILE] [--memory MIB] [--iterations N] [--seed N]
 *
 * FILE has lines `from to`, such as those of SNAP. Without one the graph is drawn: an R-MAT graph
 * of the size of SNAP's wiki-Vote and about as skewed. Either is replicated (pattern.h) until
 * `--memory` is filled. An iteration is one unit of work.
 */
#include "app.h"
#include "pattern.h"
#include "sparse.h"

/* The drawn graph: edges of wiki-Vote, vertices 2^LEVELS; R-MAT's parameters in thousandths. */
#define DRAWN_EDGES 103689
#define LEVELS 13
#define UPPER_LEFT 550
#define UPPER_RIGHT 200
#define LOWER_LEFT 200
/* Ones in a row of the pattern, about. */
#define COPIES_A_ROW 2
#define BLOCKS_MAX 20000
#define DAMPING 0.85

static struct entry *drawn(size_t *count, size_t *vertices, uint64_t seed)
{
    struct entry *entries = app_memory(DRAWN_EDGES * sizeof *entries);

    for (size_t at = 0; at < DRAWN_EDGES; at++) {
        uint32_t from = 0, to = 0;

        for (int level = 0; level < LEVELS; level++) {
            unsigned which = (unsigned)(app_random(&seed) % 1000);
            int is_lower = which >= UPPER_LEFT + UPPER_RIGHT;
            int is_right = is_lower ? which >= UPPER_LEFT + UPPER_RIGHT + LOWER_LEFT
                                    : which >= UPPER_LEFT;

            from = 2 * from + (uint32_t)is_lower;
            to = 2 * to + (uint32_t)is_right;
        }
        entries[at] = (struct entry){to, from, 1.0f}; /* by target, as a pull wants it */
    }
    *count = DRAWN_EDGES;
    *vertices = (size_t)1 << LEVELS;
    return entries;
}

static struct sparse base_of(const char *path, uint64_t seed)
{
    size_t count, vertices, same;
    struct entry *entries;
    struct sparse made;

    if (path) {
        entries = sparse_read(path, 1, &count, &vertices, &same);
        sparse_turn(entries, count);
    } else {
        entries = drawn(&count, &vertices, seed);
    }
    made = sparse_of(entries, count, vertices, vertices, 0);
    app_return(entries, count * sizeof *entries);
    return made;
}

struct state {
    size_t vertices;
    double *rank, *share; /* of a vertex; what each of its links is worth */
    uint32_t *links;      /* out of a vertex */
};

static size_t needs(const struct sparse *base, const struct pattern *pattern)
{
    return pattern->ones * base->entries * sizeof(uint32_t) +
           pattern->rows * base->rows *
               (sizeof(uint64_t) + 2 * sizeof(double) + sizeof(uint32_t));
}

static struct pattern pattern_of(const struct sparse *base, size_t memory, uint64_t seed)
{
    struct pattern pattern = {0};

    for (size_t blocks = 1; blocks <= BLOCKS_MAX; blocks += 1 + blocks / 64) {
        unsigned of_1000 = (unsigned)(1000 * (COPIES_A_ROW - 1) / blocks);

        pattern = pattern_make(blocks, blocks, of_1000, seed);
        if (needs(base, &pattern) >= memory)
            return pattern;
        app_return(pattern.cells, pattern.rows * pattern.columns);
    }
    app_fail("the data are too small for so much memory");
}

static struct state state_make(const struct sparse *graph)
{
    struct state made = {graph->rows, NULL, NULL, NULL};

    made.rank = app_memory(made.vertices * sizeof *made.rank);
    made.share = app_memory(made.vertices * sizeof *made.share);
    made.links = app_memory(made.vertices * sizeof *made.links);
    for (size_t at = 0; at < graph->entries; at++)
        made.links[graph->targets[at]]++;
    for (size_t vertex = 0; vertex < made.vertices; vertex++)
        made.rank[vertex] = 1.0 / (double)made.vertices;
    return made;
}

static void iterate(const struct sparse *graph, struct state *state)
{
    double dangling = 0, rest;

    for (size_t vertex = 0; vertex < state->vertices; vertex++) {
        if (state->links[vertex])
            state->share[vertex] = state->rank[vertex] / state->links[vertex];
        else
            dangling += state->rank[vertex];
    }
    rest = (1 - DAMPING + DAMPING * dangling) / (double)state->vertices;
    for (size_t vertex = 0; vertex < state->vertices; vertex++) {
        double sum = 0;

        for (size_t at = graph->starts[vertex]; at < graph->starts[vertex + 1]; at++)
            sum += state->share[graph->targets[at]];
        state->rank[vertex] = rest + DAMPING * sum;
    }
}

int main(int count, char **words)
{
    static const char *const known[] = {"--edges", "--memory", "--iterations", "--seed", NULL};
    uint64_t seed, iterations, before;
    struct sparse base, graph;
    struct pattern pattern;
    struct state state;

    app_only(count, words, known);
    seed = app_number(count, words, "--seed", 1);
    iterations = app_number(count, words, "--iterations", 10);
    base = base_of(app_word(count, words, "--edges"), seed);
    pattern = pattern_of(&base, app_number(count, words, "--memory", 512) * APP_MIB, seed);
    graph = sparse_replicated(&base, &pattern, 0);
    before = sparse_hash(&graph, 1);
    state = state_make(&graph);
    for (uint64_t done = 0; done < iterations; done++) {
        iterate(&graph, &state);
        app_unit();
    }
    if (sparse_hash(&graph, 1) != before)
        app_fail("wrong bytes: the graph in memory has changed");
    before = app_hash(before, state.links, state.vertices * sizeof *state.links);
    app_done(needs(&base, &pattern),
             app_hash(before, state.rank, state.vertices * sizeof *state.rank));
    return 0;
}
