/* pattern.c: see pattern.h. */
#include "pattern.h"

#include "app.h"

struct pattern pattern_make(size_t rows, size_t columns, unsigned of_1000, uint64_t seed)
{
    struct pattern made = {rows, columns, 0, app_memory(rows * columns)};

    for (size_t row = 0; row < rows; row++)
        for (size_t column = 0; column < columns; column++) {
            int is_diagonal = row % columns == column % rows;
            int drawn = app_random(&seed) % 1000 < of_1000;

            made.cells[row * columns + column] = (uint8_t)(is_diagonal || drawn);
            made.ones += (size_t)(is_diagonal || drawn);
        }
    return made;
}
