/* notes.c: see notes.h. */
#include "notes.h"

#include "kernel.h"
#include "say.h"

#include <stdatomic.h>

#define NOTES 65536
#define FULL_SLEEP_NS 20000

struct note { _Atomic uint64_t filled; uint64_t start, end; enum mcp_note what; };

static struct note *notes;
static _Atomic uint64_t head, tail;

void mcp_notes_open(void)
{
    notes = mcp_map_private(NOTES * sizeof *notes);
    if (!notes)
        mcp_die("no memory for the ring of notes", 0);
}

uint64_t mcp_note_ticket(void)
{
    return atomic_fetch_add(&head, 1);
}

void mcp_note_tell(uint64_t ticket, enum mcp_note what, uint64_t start, uint64_t end)
{
    struct note *note = &notes[ticket % NOTES];
    while (ticket - atomic_load_explicit(&tail, memory_order_acquire) >= NOTES)
        mcp_sleep_ns(FULL_SLEEP_NS);    /* the pager takes them, or the process ends */
    note->start = start;
    note->end = end;
    note->what = what;
    atomic_store_explicit(&note->filled, ticket + 1, memory_order_release);
}

int mcp_note_next(enum mcp_note *what, uint64_t *start, uint64_t *end)
{
    uint64_t at = atomic_load_explicit(&tail, memory_order_relaxed);
    struct note *note = &notes[at % NOTES];
    if (atomic_load_explicit(&note->filled, memory_order_acquire) != at + 1)
        return 0;
    *what = note->what;
    *start = note->start;
    *end = note->end;
    atomic_store_explicit(&tail, at + 1, memory_order_release);
    return 1;
}

void mcp_notes_reset(void)
{
    atomic_store(&tail, atomic_load(&head));
}
