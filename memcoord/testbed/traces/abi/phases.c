/* phases.c: see phases.h. */
#include <stdbool.h>

#include "phases.h"

/* The end of a list of events. */
#define NO_EVENT UINT32_MAX

static void event_unlink(struct mc_phases *phases, uint32_t number)
{
    struct mc_phase_event *events = phases->events, *event = &events[number];

    if (event->before == NO_EVENT)
        phases->oldest = event->after;
    else
        events[event->before].after = event->after;
    if (event->after == NO_EVENT)
        phases->newest = event->before;
    else
        events[event->after].before = event->before;
}

static void event_append(struct mc_phases *phases, uint32_t number)
{
    struct mc_phase_event *events = phases->events, *event = &events[number];
    bool is_first = phases->pages == 1 && number == 0;

    event->at = phases->at;
    event->before = is_first ? NO_EVENT : phases->newest;
    event->after = NO_EVENT;
    if (is_first)
        phases->oldest = number;
    else
        events[phases->newest].after = number;
    phases->newest = number;
}

uint64_t mc_phases_end(struct mc_phases *phases, const struct mc_phase_rows *rows)
{
    uint32_t number = phases->pages ? phases->oldest : NO_EVENT;
    uint64_t count = 0;

    for (; number != NO_EVENT; number = phases->events[number].after, count++) {
        const struct mc_phase_event *event = &phases->events[number];

        rows->pages[count] = event->page;
        rows->dts[count] = event->at - phases->told;
        rows->flags[count] = event->flags;
        phases->told = event->at;
    }
    phases->pages = 0;
    return count;
}

static void event_first(struct mc_phases *phases, uint32_t page, uint32_t flags)
{
    uint32_t place = phases->pages++;

    phases->places[page] = place;
    phases->events[2 * place] = (struct mc_phase_event){.page = page, .flags = flags};
    phases->events[2 * place + 1] = (struct mc_phase_event){.page = page};
    event_append(phases, 2 * place);
}

static void event_again(struct mc_phases *phases, uint32_t place, uint32_t flags)
{
    struct mc_phase_event *last = &phases->events[2 * place + 1];

    last->flags |= flags;
    if (last->at != 0)
        event_unlink(phases, 2 * place + 1);
    event_append(phases, 2 * place + 1);
}

uint64_t mc_phases_take(struct mc_phases *phases, const int32_t *pages, const uint8_t *flags,
                        uint64_t count, const struct mc_phase_rows *rows)
{
    uint64_t written = 0;

    for (uint64_t at = 0; at < count; at++) {
        uint32_t page = (uint32_t)pages[at], place = phases->places[page];
        bool is_known = place < phases->pages && phases->events[2 * place].page == page;

        if (!is_known && phases->pages == phases->pages_max) {
            const struct mc_phase_rows rest = {
                rows->pages + written, rows->dts + written, rows->flags + written};

            written += mc_phases_end(phases, &rest);
        }
        phases->at++;
        if (is_known)
            event_again(phases, place, flags[at]);
        else
            event_first(phases, page, flags[at]);
    }
    return written;
}

static uint64_t number_text(uint64_t number, uint8_t end, uint8_t *out)
{
    uint8_t digits[20];
    uint64_t count = 0;

    do {
        digits[count++] = (uint8_t)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    for (uint64_t at = 0; at < count; at++)
        out[at] = digits[count - 1 - at];
    out[count] = end;
    return count + 1;
}

uint64_t mc_phase_text(const struct mc_phase_rows *rows, uint64_t count, uint8_t *out)
{
    uint64_t bytes = 0;

    for (uint64_t at = 0; at < count; at++) {
        bytes += number_text(rows->pages[at], ',', out + bytes);
        bytes += number_text(rows->dts[at], ',', out + bytes);
        bytes += number_text(rows->flags[at], '\n', out + bytes);
    }
    return bytes;
}
