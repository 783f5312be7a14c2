/* table.c: see table.h. */
#include <stdbool.h>
#include <string.h>

#include "table.h"

/* The longest word for an operation. */
#define WORD_BYTES_MAX 8

/* The field of the wanted column, as far as it was read. */
enum cell_state { CELL_NOTHING, CELL_PREFIX, CELL_FILLED, CELL_ENDED, CELL_BAD };

struct cell {
    enum cell_state state;
    uint32_t base;
    uint32_t bytes;
    uint64_t value;
    char word[WORD_BYTES_MAX + 1];
};

static struct cell cell_empty(uint32_t kind)
{
    return (struct cell){.state = CELL_NOTHING, .base = kind == MC_TABLE_DECIMAL ? 10 : 16};
}

static void cell_take_digit(struct cell *cell, uint8_t byte, uint64_t highest)
{
    uint32_t units = mc_table_digit(byte);
    bool is_prefix = (byte | 0x20) == 'x' && cell->bytes == 1 && cell->value == 0;

    if (is_prefix) {
        cell->base = 16;
        cell->state = CELL_PREFIX;
    } else if (units >= cell->base ||
               __builtin_mul_overflow(cell->value, (uint64_t)cell->base, &cell->value) ||
               __builtin_add_overflow(cell->value, (uint64_t)units, &cell->value) ||
               cell->value > highest) {
        cell->state = CELL_BAD;
    } else {
        cell->state = CELL_FILLED;
    }
    cell->bytes++;
}

static void cell_take_letter(struct cell *cell, uint8_t byte)
{
    if (cell->bytes == WORD_BYTES_MAX) {
        cell->state = CELL_BAD;
        return;
    }
    cell->word[cell->bytes++] = (char)(byte >= 'A' && byte <= 'Z' ? byte | 0x20 : byte);
    cell->state = CELL_FILLED;
}

static void cell_take(struct cell *cell, uint8_t byte, uint32_t kind, uint64_t highest)
{
    if (byte == ' ' || byte == '\t' || byte == '\r') {
        if (cell->state == CELL_FILLED)
            cell->state = CELL_ENDED;
        else if (cell->state == CELL_PREFIX)
            cell->state = CELL_BAD;
    } else if (cell->state == CELL_ENDED) {
        cell->state = CELL_BAD;
    } else if (kind == MC_TABLE_OPERATION) {
        cell_take_letter(cell, byte);
    } else {
        cell_take_digit(cell, byte, highest);
    }
}

/* The flags that a word stands for; -1 for an unknown one. Numbers are those of SCSI commands. */
static int64_t operation_of(const char *word)
{
    static const struct {
        const char *words;
        int64_t flags;
    } known[] = {
        {" r rs ra read l load 0 28 88 8 08 a8 ", 0},
        {" w ws write s store m modify 1 2a 8a a 0a aa ", MC_REFERENCE_WRITTEN},
        {" i fetch 2 ", MC_REFERENCE_FETCHED},
    };
    char wanted[WORD_BYTES_MAX + 3] = " ";
    size_t length = strlen(word);

    memcpy(wanted + 1, word, length);
    wanted[length + 1] = ' ';
    for (size_t at = 0; at < sizeof known / sizeof *known; at++) {
        if (strstr(known[at].words, wanted))
            return known[at].flags;
    }
    return -1;
}

/* Whether the field is what was wanted; its value goes to `out`. */
static bool cell_value(const struct cell *cell, uint32_t kind, uint64_t *out)
{
    int64_t flags = 0;

    if (cell->state != CELL_FILLED && cell->state != CELL_ENDED)
        return false;
    if (kind == MC_TABLE_OPERATION)
        flags = operation_of(cell->word);
    *out = kind == MC_TABLE_OPERATION ? (uint64_t)flags : cell->value;
    return flags >= 0;
}

/* Where the reader stands in a row. */
struct row {
    uint64_t field;
    bool quoted, blank, comment;
    bool in_field; /* of fields that blanks separate */
};

/* Whether `byte` separates two fields; counts them. */
static bool row_separated(struct row *row, uint8_t byte, uint8_t separator)
{
    bool is_blank = byte == ' ' || byte == '\t';

    if (row->quoted)
        return false;
    if (separator != ' ') {
        row->field += byte == separator;
        return byte == separator;
    }
    row->field += is_blank && row->in_field;
    row->in_field = !is_blank;
    return is_blank;
}

int64_t mc_table_column(const struct mc_table_part *part, uint64_t column, uint32_t kind,
                        uint64_t highest, uint64_t *out, uint64_t most, uint64_t *ended)
{
    const struct row first = {.blank = true};
    struct cell cell = cell_empty(kind);
    struct row row = first;
    uint64_t rows = 0, length = part->length, end = length + (part->is_last != 0);
    int64_t line = 1;

    *ended = 0;
    for (uint64_t at = 0; at < end && rows < most; at++) {
        uint8_t byte = at < length ? part->data[at] : '\n';

        if (byte == '\n' && (!row.quoted || at == length)) {
            if (!row.blank && !cell_value(&cell, kind, &out[rows]))
                return -line;
            rows += !row.blank;
            cell = cell_empty(kind);
            row = first;
            *ended = at < length ? at + 1 : length;
            line++;
            continue;
        }
        line += byte == '\n';
        if (row.comment)
            continue;
        if (row.blank && byte == '#' && part->comments) {
            row.comment = true;
            continue;
        }
        if (byte != '\r' && byte != ' ' && byte != '\t')
            row.blank = false;
        if (row_separated(&row, byte, part->separator))
            continue;
        if (byte == '"')
            row.quoted = !row.quoted;
        else if (row.field == column && cell.state != CELL_BAD)
            cell_take(&cell, byte, kind, highest);
    }
    return (int64_t)rows;
}
