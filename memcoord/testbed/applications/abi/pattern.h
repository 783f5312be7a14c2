/* pattern.h: which blocks of a replicated matrix are there.
 *
 * A sparse matrix A of real data is made larger as the Kronecker product B x A: B is a small matrix
 * of zeroes and ones, and every one of them becomes a copy of A. Degrees of the product are degrees
 * of B times degrees of A, so it is as skewed as A is. B is drawn by a seed. Rows and columns of B
 * are taken in order, so that whoever builds the product writes its memory from front to back.
 */
#ifndef PATTERN_H
#define PATTERN_H

#include <stddef.h>
#include <stdint.h>

struct pattern {
    size_t rows, columns;
    size_t ones;
    uint8_t *cells; /* rows x columns */
};

/* `of_1000` of a thousand cells, and the diagonal, so that no row and no column is empty. */
struct pattern pattern_make(size_t rows, size_t columns, unsigned of_1000, uint64_t seed);

static inline int pattern_has(const struct pattern *pattern, size_t row, size_t column)
{
    return pattern->cells[row * pattern->columns + column];
}

#endif
