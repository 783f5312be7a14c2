/* check_frames.c: the frame allocator (frames.c, search.c) against the host half (reclaim.c).
 *
 * check-frames MODEL EXECUTIONS_MAX [MORE]; ends at the first failure with 1. MORE is added to the
 * preemptions that an execution may have. See frames_world.h for what holds. prepare() asks for
 * INSTALL as the guest's mapping.c does, and maps nothing.
 */
#include "frames_world.h"

static int prepare(void *context, uint32_t area, uint32_t seen)
{
    (void)context, (void)seen;
    if (!mc_word(&world_frames, area).evicted)
        return 0;
    int status = world_install(area);
    return status == MC_OK ? 1 : status;
}

int main(int argc, char **argv)
{
    uint64_t executions_max = mck_arguments(argc, argv);
    world_make(prepare, NULL, NULL);
    return !(world_explore(1, NULL, 4, executions_max) &&
             world_explore(2, NULL, 2, executions_max));
}
