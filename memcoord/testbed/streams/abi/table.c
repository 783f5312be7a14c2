/* table.c: see table.h. */
#include <stdbool.h>

#include "table.h"

/* The field of the wanted column, as far as it was read. */
enum cell_state { CELL_NOTHING, CELL_DIGITS, CELL_ENDED, CELL_BAD };

struct cell {
    enum cell_state state;
    uint64_t value;
};

static void cell_take(struct cell *cell, uint8_t byte, uint64_t highest)
{
    bool digit = byte >= '0' && byte <= '9';

    if (digit && (cell->state == CELL_NOTHING || cell->state == CELL_DIGITS)) {
        uint64_t units = (uint64_t)byte - '0';
        bool fits = units <= highest && cell->value <= (highest - units) / 10;

        cell->value = cell->value * 10 + units;
        cell->state = fits ? CELL_DIGITS : CELL_BAD;
    } else if (byte != ' ' && byte != '\r') {
        cell->state = CELL_BAD;
    } else if (cell->state == CELL_DIGITS) {
        cell->state = CELL_ENDED;
    }
}

int64_t mc_table_column(const uint8_t *data, uint64_t length, int is_last, uint64_t column,
                        uint64_t highest, uint64_t *out, uint64_t most, uint64_t *ended)
{
    struct cell cell = {CELL_NOTHING, 0};
    uint64_t rows = 0, field = 0, end = length + (is_last != 0);
    int64_t line = 1;
    bool quoted = false, blank = true;

    *ended = 0;
    for (uint64_t at = 0; at < end && rows < most; at++) {
        uint8_t byte = at < length ? data[at] : '\n';

        line += byte == '\n';
        if (byte == '\n' && (!quoted || at == length)) {
            if (!blank) {
                if (cell.state != CELL_DIGITS && cell.state != CELL_ENDED)
                    return -line;
                out[rows++] = cell.value;
            }
            cell = (struct cell){CELL_NOTHING, 0};
            field = 0;
            quoted = false;
            blank = true;
            *ended = at < length ? at + 1 : length;
            continue;
        }
        if (byte != '\r')
            blank = false;
        if (byte == '"')
            quoted = !quoted;
        else if (byte == ',' && !quoted)
            field++;
        else if (field == column && cell.state != CELL_BAD)
            cell_take(&cell, byte, highest);
    }
    return (int64_t)rows;
}
