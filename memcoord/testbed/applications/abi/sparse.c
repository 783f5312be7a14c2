/* sparse.c: see sparse.h. */
#include "sparse.h"

#include "app.h"

#include <stdio.h>
#include <stdlib.h>

#define LINE_BYTES_MAX 512
#define ENTRIES_MAX ((size_t)1 << 28)

/* A table of the numbers seen, for dense ones; ids of files are below 2^32. */
struct numbering {
    uint32_t *ids; /* id + 1, 0 where free */
    uint32_t *dense;
    size_t slots, used;
};

static struct numbering numbering_make(size_t most)
{
    struct numbering made = {0};

    for (made.slots = 1024; made.slots < 2 * most + 2; made.slots *= 2)
        ;
    made.ids = app_memory(made.slots * sizeof *made.ids);
    made.dense = app_memory(made.slots * sizeof *made.dense);
    return made;
}

static uint32_t number_of(struct numbering *numbers, uint32_t id)
{
    uint64_t state = id;
    size_t slot = app_random(&state) & (numbers->slots - 1);

    while (numbers->ids[slot] && numbers->ids[slot] != id + 1)
        slot = (slot + 1) & (numbers->slots - 1);
    if (!numbers->ids[slot]) {
        numbers->ids[slot] = id + 1;
        numbers->dense[slot] = (uint32_t)numbers->used++;
    }
    return numbers->dense[slot];
}

static void numbering_return(struct numbering *numbers)
{
    app_return(numbers->ids, numbers->slots * sizeof *numbers->ids);
    app_return(numbers->dense, numbers->slots * sizeof *numbers->dense);
}

/* Reads one line; 1 when it tells of an entry. */
static int line_read(const char *line, struct entry *entry)
{
    char *end;

    if (line[0] < '0' || line[0] > '9')
        return 0;
    entry->row = (uint32_t)strtoul(line, &end, 10);
    if (*end != ',' && *end != '\t' && *end != ' ')
        return 0;
    entry->column = (uint32_t)strtoul(end + 1, &end, 10);
    entry->value = *end == ',' || *end == '\t' ? strtof(end + 1, NULL) : 1.0f;
    return 1;
}

static size_t lines_of(FILE *file)
{
    size_t lines = 1;

    for (int byte = getc(file); byte != EOF; byte = getc(file))
        lines += byte == '\n';
    rewind(file);
    return lines;
}

struct entry *sparse_read(const char *path, int is_graph, size_t *count, size_t *rows,
                          size_t *columns)
{
    FILE *file = fopen(path, "r");
    char line[LINE_BYTES_MAX];
    struct numbering of_rows, of_columns;
    struct entry *entries;
    size_t most;

    if (!file)
        app_fail("the file with the data cannot be read");
    most = lines_of(file);
    if (most > ENTRIES_MAX)
        app_fail("the file with the data is too long");
    entries = app_memory(most * sizeof *entries);
    of_rows = numbering_make(is_graph ? 2 * most : most);
    of_columns = is_graph ? of_rows : numbering_make(most);
    for (*count = 0; *count < most && fgets(line, sizeof line, file);) {
        struct entry *entry = &entries[*count];

        if (!line_read(line, entry))
            continue;
        entry->row = number_of(&of_rows, entry->row);
        entry->column = number_of(is_graph ? &of_rows : &of_columns, entry->column);
        ++*count;
    }
    fclose(file);
    if (!*count)
        app_fail("the file with the data has no line of numbers");
    *rows = of_rows.used;
    *columns = is_graph ? of_rows.used : of_columns.used;
    numbering_return(&of_rows);
    if (!is_graph)
        numbering_return(&of_columns);
    return entries;
}

void sparse_turn(struct entry *entries, size_t count)
{
    for (size_t at = 0; at < count; at++) {
        uint32_t row = entries[at].row;

        entries[at].row = entries[at].column;
        entries[at].column = row;
    }
}

static int by_place(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;

    if (a->row != b->row)
        return a->row < b->row ? -1 : 1;
    return a->column < b->column ? -1 : a->column > b->column;
}

static struct sparse sparse_make(size_t rows, size_t columns, size_t entries, int has_values)
{
    struct sparse made = {rows, columns, entries, NULL, NULL, NULL};

    made.starts = app_memory((rows + 1) * sizeof *made.starts);
    made.targets = app_memory(entries * sizeof *made.targets);
    made.values = has_values ? app_memory(entries * sizeof *made.values) : NULL;
    return made;
}

struct sparse sparse_of(struct entry *entries, size_t count, size_t rows, size_t columns,
                        int has_values)
{
    struct sparse made = sparse_make(rows, columns, count, has_values);
    size_t kept = 0;

    qsort(entries, count, sizeof *entries, by_place);
    for (size_t at = 0; at < count; at++) {
        if (at && by_place(&entries[at - 1], &entries[at]) == 0)
            continue;
        made.starts[entries[at].row + 1]++;
        made.targets[kept] = entries[at].column;
        if (has_values)
            made.values[kept] = entries[at].value;
        kept++;
    }
    made.entries = kept;
    for (size_t row = 0; row < rows; row++)
        made.starts[row + 1] += made.starts[row];
    return made;
}

struct sparse sparse_replicated(const struct sparse *base, const struct pattern *pattern,
                                int is_turned)
{
    size_t rows = is_turned ? pattern->columns : pattern->rows;
    size_t columns = is_turned ? pattern->rows : pattern->columns;
    struct sparse made = sparse_make(rows * base->rows, columns * base->columns,
                                     pattern->ones * base->entries, base->values != NULL);
    size_t to = 0;

    for (size_t row = 0; row < made.rows; row++) {
        size_t block_row = row / base->rows, of_base = row % base->rows;

        for (size_t block = 0; block < columns; block++) {
            if (!(is_turned ? pattern_has(pattern, block, block_row)
                            : pattern_has(pattern, block_row, block)))
                continue;
            for (size_t at = base->starts[of_base]; at < base->starts[of_base + 1]; at++) {
                made.targets[to] = (uint32_t)(block * base->columns + base->targets[at]);
                if (base->values)
                    made.values[to] = base->values[at];
                to++;
            }
        }
        made.starts[row + 1] = to;
    }
    return made;
}

uint64_t sparse_hash(const struct sparse *matrix, uint64_t hash)
{
    hash = app_hash(hash, matrix->starts, (matrix->rows + 1) * sizeof *matrix->starts);
    hash = app_hash(hash, matrix->targets, matrix->entries * sizeof *matrix->targets);
    if (matrix->values)
        hash = app_hash(hash, matrix->values, matrix->entries * sizeof *matrix->values);
    return hash;
}

void sparse_return(struct sparse *matrix)
{
    app_return(matrix->starts, (matrix->rows + 1) * sizeof *matrix->starts);
    app_return(matrix->targets, matrix->entries * sizeof *matrix->targets);
    if (matrix->values)
        app_return(matrix->values, matrix->entries * sizeof *matrix->values);
}
