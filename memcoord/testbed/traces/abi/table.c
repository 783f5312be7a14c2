/* table.c: see table.h. */
#include <stdbool.h>
#include <string.h>

#include "table.h"

/* The longest word for an operation. */
#define WORD_BYTES_MAX 8
/* Decimal digits of which any number fits 64 bits. */
#define PLAIN_DIGITS_MAX 19

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

/* What is read of a part. */
struct wanted {
    const struct mc_table_part *part;
    uint64_t column;
    uint32_t kind;
    uint64_t highest;
};

/* Where the reader stands in a row, and what it has found. */
struct row {
    struct cell cell;
    uint64_t field;
    int64_t lines;
    bool quoted, blank, comment;
    bool in_field; /* of fields that blanks separate */
};

/* The row at `at` as most are: fields without quotation marks, digits in the wanted one. Returns
 * where the next one begins; 0 for any other row, which `row_read` looks at closely. */
static uint64_t row_plain(const struct wanted *wanted, uint64_t at, uint64_t *out)
{
    const uint8_t *data = wanted->part->data;
    uint64_t length = wanted->part->length, column = wanted->column, value = 0, begin;
    uint8_t separator = wanted->part->separator;

    for (; column > 0 && at < length; at++) {
        if (data[at] == '"' || data[at] == '#' || data[at] == '\n')
            return 0;
        column -= data[at] == separator;
    }
    for (begin = at; at < length && data[at] >= '0' && data[at] <= '9'; at++)
        value = value * 10 + (uint64_t)(data[at] - '0');
    if (at == length || at == begin || at - begin > PLAIN_DIGITS_MAX || value > wanted->highest)
        return 0;
    if (data[at] != separator && data[at] != '\n')
        return 0;
    *out = value;
    for (; at < length && data[at] != '"'; at++) {
        if (data[at] == '\n')
            return at + 1;
    }
    return 0;
}

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

static void row_take(const struct wanted *wanted, struct row *row, uint8_t byte)
{
    if (row->blank && byte == '#' && wanted->part->comments)
        row->comment = true;
    if (row->comment)
        return;
    row->blank = row->blank && (byte == '\r' || byte == ' ' || byte == '\t');
    if (row_separated(row, byte, wanted->part->separator))
        return;
    if (byte == '"')
        row->quoted = !row->quoted;
    else if (row->field == wanted->column && row->cell.state != CELL_BAD)
        cell_take(&row->cell, byte, wanted->kind, wanted->highest);
}

/* Any row. Returns where the next one begins; 0 where this one has no end in the part. */
static uint64_t row_read(const struct wanted *wanted, uint64_t at, struct row *row)
{
    uint64_t length = wanted->part->length, end = length + (wanted->part->is_last != 0);

    *row = (struct row){.cell = cell_empty(wanted->kind), .blank = true};
    for (; at < end; at++) {
        uint8_t byte = at < length ? wanted->part->data[at] : '\n';

        row->lines += byte == '\n';
        if (byte == '\n' && (!row->quoted || at == length))
            return at + 1;
        row_take(wanted, row, byte);
    }
    return 0;
}

int64_t mc_table_column(const struct mc_table_part *part, uint64_t column, uint32_t kind,
                        uint64_t highest, uint64_t *out, uint64_t most, uint64_t *ended)
{
    const struct wanted wanted = {part, column, kind, highest};
    bool may_be_plain = kind == MC_TABLE_DECIMAL && part->separator != ' ';
    uint64_t rows = 0, at = 0;
    int64_t line = 1;

    *ended = 0;
    while (rows < most) {
        uint64_t next = may_be_plain ? row_plain(&wanted, at, &out[rows]) : 0;
        struct row row = {.lines = 1};

        if (next == 0) {
            next = row_read(&wanted, at, &row);
            if (next == 0)
                break;
            if (!row.blank && !cell_value(&row.cell, kind, &out[rows]))
                return -(line + row.lines - 1);
        }
        rows += !row.blank;
        line += row.lines;
        at = next;
    }
    *ended = at < part->length ? at : part->length;
    return (int64_t)rows;
}
