/* balloon_array.c: see balloon_array.h. */
#include "balloon_array.h"

#include <string.h>

int64_t mc_balloon_tell(struct mc_guest *guest, int op, const uint32_t *frames, uint32_t count,
                        uint64_t not_done[MC_BALLOON_BITS])
{
    struct mc_record record = {.op = (uint16_t)op, .arg = {count}};
    int64_t done;

    memcpy(mc_balloon_array(guest->control), frames, count * sizeof *frames);
    done = mc_ask(guest, &record);
    memcpy(not_done, &record.arg[1], MC_BALLOON_BITS * sizeof *not_done);
    return done;
}

int mc_balloon_is_set(const uint64_t *bits, uint32_t index)
{
    return bits[index / 64] >> index % 64 & 1;
}
