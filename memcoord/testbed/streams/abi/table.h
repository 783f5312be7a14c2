/* table.h: one column of a CSV file, as whole numbers.
 *
 * Owns:  what a row and a number are. Rows end with \n or \r\n, a row of blanks is none. A field in
 *        quotation marks may hold commas and line ends. A number has decimal digits only, with
 *        spaces or quotation marks around it.
 * Rules: touches `length` bytes of `data` and `most` numbers of `out`, whatever stands there. A
 *        file is read a block at a time; what is behind `*ended` begins the next block.
 */
#ifndef MC_TABLE_H
#define MC_TABLE_H

#include "layout.h"

/* cdef-begin */
/* Write column `column` (0 is the first) of the first `most` rows of `data` to `out`; `data` begins
 * with a row, the first of them the second line of the file. Where more of the file follows
 * (is_last 0), a row without its end is left out. `*ended` is where the last row that was read
 * ends. Returns how many rows there are, or minus the number of the first line whose field is no
 * number of 0 to `highest`. */
int64_t mc_table_column(const uint8_t *data, uint64_t length, int is_last, uint64_t column,
                        uint64_t highest, uint64_t *out, uint64_t most, uint64_t *ended);
/* cdef-end */

#endif
