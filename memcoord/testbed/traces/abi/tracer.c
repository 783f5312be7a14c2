/* tracer.c: see tracer.h. */
#include <stdbool.h>
#include <string.h>

#include "tracer.h"

#define ADDRESS_DIGITS_MAX 16
/* Words in which perf names an access that writes. */
#define STORE "STORE"

/* A word or a line, without its end. */
struct words {
    const uint8_t *at;
    uint64_t length;
};

enum found { NOTHING, REFERENCE, WRONG };

typedef enum found (*line_reader)(struct words line, uint64_t *address, uint64_t *flags);

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r';
}

/* The number of bytes of the hexadecimal number that `text` begins with; 0 where there is none. */
static uint64_t address_of(struct words text, uint64_t *address)
{
    uint64_t digits = 0;

    *address = 0;
    while (digits < text.length && mc_table_digit(text.at[digits]) < 16)
        *address = *address << 4 | mc_table_digit(text.at[digits++]);
    return digits <= ADDRESS_DIGITS_MAX ? digits : 0;
}

/* The next word of a line, which is taken off it; empty at its end. */
static struct words word_of(struct words *line)
{
    struct words word;

    while (line->length && is_blank(*line->at))
        line->at++, line->length--;
    word = (struct words){line->at, 0};
    while (line->length && !is_blank(*line->at))
        line->at++, line->length--, word.length++;
    return word;
}

/* Whether `text` is a number of decimal digits. */
static bool is_decimal(struct words text)
{
    for (uint64_t at = 0; at < text.length; at++) {
        if (text.at[at] < '0' || text.at[at] > '9')
            return false;
    }
    return text.length > 0;
}

/* "I  04001000,3", " L 1ffeffe7e0,8", " S 1ffeffe7e0,8", " M 1ffeffe7e0,8". */
static enum found lackey_line(struct words line, uint64_t *address, uint64_t *flags)
{
    struct words kind = word_of(&line), place = word_of(&line);
    uint64_t digits = address_of(place, address);
    bool is_message = kind.length > 1 && kind.at[0] == kind.at[1] && memchr("=-*", kind.at[0], 3);

    if (kind.length == 0 || is_message)
        return NOTHING;
    if (kind.length != 1 || digits == 0 || digits == place.length || place.at[digits] != ',')
        return WRONG;
    if (!is_decimal((struct words){place.at + digits + 1, place.length - digits - 1}))
        return WRONG;
    *flags = 0;
    if (kind.at[0] == 'I')
        *flags = MC_REFERENCE_FETCHED;
    else if (kind.at[0] == 'S' || kind.at[0] == 'M')
        *flags = MC_REFERENCE_WRITTEN;
    else if (kind.at[0] != 'L')
        return WRONG;
    return REFERENCE;
}

/* Whether a word is a time, as "5310.918239:". */
static bool is_time(struct words word)
{
    uint64_t points = 0;

    for (uint64_t at = 0; at + 1 < word.length; at++) {
        if (word.at[at] == '.')
            points++;
        else if (word.at[at] < '0' || word.at[at] > '9')
            return false;
    }
    return points == 1 && word.length > 2;
}

/* Whether `text` says that the access writes, in either case. */
static bool says_store(struct words text)
{
    for (uint64_t at = 0; at + sizeof STORE - 1 <= text.length; at++) {
        uint64_t same = 0;

        while (same < sizeof STORE - 1 && (text.at[at + same] & 0xdf) == STORE[same])
            same++;
        if (same == sizeof STORE - 1)
            return true;
    }
    return false;
}

/* "sort 311 5310.918239: 1 cpu/mem-loads/P: 7ffd3a1c 2a8100142 |OP LOAD|... 55d0c8f0a1b3 main". */
static enum found perf_line(struct words line, uint64_t *address, uint64_t *flags)
{
    struct words all = line, rest = line, place, next;
    bool timed = false;

    if (line.length == 0 || line.at[0] == '#')
        return NOTHING;
    for (struct words word = word_of(&line); word.length; word = word_of(&line)) {
        bool is_named = word.at[word.length - 1] == ':', was_timed = timed;

        if (!is_named)
            continue;
        timed = timed || is_time(word);
        rest = line;
        if (was_timed)
            break;
    }
    place = word_of(&rest);
    next = word_of(&rest);
    if (place.length == 0 || address_of(place, address) != place.length)
        return WRONG;
    /* A symbol behind it: an instruction's address, not that of data. */
    if (next.length && (next.at[0] == '[' || memchr(next.at, '+', next.length)))
        return WRONG;
    *flags = says_store(all) ? MC_REFERENCE_WRITTEN : 0;
    return REFERENCE;
}

static int64_t references_of(const struct mc_table_part *part, line_reader read,
                             uint64_t *addresses, uint64_t *flags, uint64_t most, uint64_t *ended)
{
    uint64_t count = 0, at = 0;

    *ended = 0;
    for (int64_t line = 1; at < part->length && count < most; line++) {
        const uint8_t *begin = part->data + at;
        const uint8_t *end = memchr(begin, '\n', part->length - at);
        struct words words = {begin, end ? (uint64_t)(end - begin) : part->length - at};

        if (!end && !part->is_last)
            break;
        while (words.length && is_blank(words.at[words.length - 1]))
            words.length--;
        switch (read(words, &addresses[count], &flags[count])) {
        case REFERENCE:
            count++;
            break;
        case WRONG:
            return -line;
        case NOTHING:
            break;
        }
        at = end ? (uint64_t)(end - part->data) + 1 : part->length;
        *ended = at;
    }
    return (int64_t)count;
}

int64_t mc_tracer_lackey(const struct mc_table_part *part, uint64_t *addresses, uint64_t *flags,
                         uint64_t most, uint64_t *ended)
{
    return references_of(part, lackey_line, addresses, flags, most, ended);
}

int64_t mc_tracer_perf(const struct mc_table_part *part, uint64_t *addresses, uint64_t *flags,
                       uint64_t most, uint64_t *ended)
{
    return references_of(part, perf_line, addresses, flags, most, ended);
}
