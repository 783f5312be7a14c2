/* sparse.h: a sparse matrix, row by row, and its replication.
 *
 * Entries of a row stand together, in the order of their columns. `values` is NULL in a matrix of
 * ones, such as a graph.
 */
#ifndef SPARSE_H
#define SPARSE_H

#include "pattern.h"

#include <stddef.h>
#include <stdint.h>

struct sparse {
    size_t rows, columns, entries;
    uint64_t *starts;  /* rows + 1 */
    uint32_t *targets; /* the column of each entry */
    float *values;
};

/* An entry as a file tells it. */
struct entry {
    uint32_t row, column;
    float value;
};

/* The lines of a file of numbers, `row,column[,value...]`, also with tabs or blanks between them; a
 * line that begins with no digit is passed over. Rows and columns get dense numbers of their own,
 * of one and the same numbering where `is_graph`. Sets `count`; ends the program when the file
 * cannot be read or has no line. */
struct entry *sparse_read(const char *path, int is_graph, size_t *count, size_t *rows,
                          size_t *columns);

/* The matrix of `entries`, which it sorts; entries that are there twice are dropped. Turned: rows
 * and columns change places. */
struct sparse sparse_of(struct entry *entries, size_t count, size_t rows, size_t columns,
                        int has_values);
void sparse_turn(struct entry *entries, size_t count);

/* `pattern` x `base`, written from front to back. Turned: by the transpose of `pattern`. */
struct sparse sparse_replicated(const struct sparse *base, const struct pattern *pattern,
                                int is_turned);

uint64_t sparse_hash(const struct sparse *matrix, uint64_t hash);
void sparse_return(struct sparse *matrix);

#endif
