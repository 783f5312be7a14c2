/* calls.h: tmem's compiled entries as functions for Python, at 40 ns a call and not at ctypes' 700.
 *
 * Owns:  the METH_FASTCALL functions that put arguments of Python into the words of an entry.
 * Rules: every function keeps the GIL, which is the lock of embedded use. Numbers are checked, not
 *        cut: OverflowError for one that does not fit, TypeError for what is no integer. An entry
 *        takes and answers int64_t; those marked in `u64_mask` are uint64_t to Python.
 */
#ifndef MC_CALLS_H
#define MC_CALLS_H

#include <stdint.h>

/* cdef-begin */
#define MC_CALL_WORDS_MAX 10

/* Append to the Python list at address `functions` (id(list)) a function that calls the entry at
 * `entry` with `count` integers. 0, or -1 when out of memory. */
int mc_call_bind(uintptr_t functions, uintptr_t entry, int count, unsigned u64_mask);

/* The same for one page: function(state, client, slot, oid0, oid1, oid2, index, page) calls the
 * entry `many` of tmem with operation `op` and one page of `page_bytes`. `page` is any contiguous
 * buffer, a writable one when `is_writable`. A page of another length answers `bad_buffer`, an
 * index that is no uint32_t `bad_index`. */
struct mc_page_call {
    uintptr_t many;
    int64_t op, page_bytes, bad_buffer, bad_index;
    int is_writable;
};
int mc_call_bind_page(uintptr_t functions, const struct mc_page_call *page_call);
/* cdef-end */

#endif
