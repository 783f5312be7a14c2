/* table.h: one column of a text file with a row per line, as whole numbers.
 *
 * Owns:  what a row, a field and a number are. Rows end with \n or \r\n, a row of blanks is none. A
 *        field in quotation marks may hold separators and line ends. A number has decimal digits
 *        only, or 0x and hexadecimal ones, with spaces or quotation marks around it.
 * Rules: touches `length` bytes of `data` and `most` numbers of `out`, whatever stands there. A
 *        file is read a part at a time; what is behind `*ended` begins the next part.
 */
#ifndef MC_TABLE_H
#define MC_TABLE_H

#include "layout.h"

/* cdef-begin */
/* A part of a file, which begins with a row. */
struct mc_table_part {
    const uint8_t *data;
    uint64_t length;
    uint8_t separator; /* between two fields; ' ' is any number of spaces and tabs */
    uint8_t comments;  /* 1: a row that begins with # is none */
    uint8_t is_last;   /* 0: more of the file follows; a row without its end is left out */
};

/* What a field says. */
enum mc_table_kind {
    MC_TABLE_DECIMAL,
    MC_TABLE_HEXADECIMAL, /* with or without 0x */
    MC_TABLE_OPERATION,   /* a word for reading, writing or fetching: the flags of a reference */
};

/* Flags of a reference. */
enum mc_reference_flag { MC_REFERENCE_WRITTEN = 1, MC_REFERENCE_FETCHED = 2 };

/* Write column `column` (0 is the first) of the first `most` rows of `part` to `out`. `*ended` is
 * where the last row that was read ends. Returns how many rows there are, or minus the number of
 * the first line (1 is the part's first) whose field is no number of 0 to `highest`, or no word. */
int64_t mc_table_column(const struct mc_table_part *part, uint64_t column, uint32_t kind,
                        uint64_t highest, uint64_t *out, uint64_t most, uint64_t *ended);
/* cdef-end */

/* The value of a hexadecimal digit; UINT32_MAX of any other byte. */
static inline uint32_t mc_table_digit(uint8_t byte)
{
    uint8_t letter = byte | 0x20;

    if (byte >= '0' && byte <= '9')
        return (uint32_t)(byte - '0');
    return letter >= 'a' && letter <= 'f' ? (uint32_t)(letter - 'a') + 10 : UINT32_MAX;
}

#endif
