/* mechanisms.c: the table of mechanisms. See mechanism.h. */
#include "mechanism.h"

#define MECHANISM_ROW(id, mechanism) [MC_##id] = &mc_##mechanism,
static const struct mc_mechanism *const mechanism_table[] = {MC_MECHANISM_LIST(MECHANISM_ROW)};

_Static_assert(sizeof mechanism_table / sizeof *mechanism_table == MC_MECHANISMS,
               "every enum mc_mechanism_id has its row");

const struct mc_mechanism *mc_mechanism(uint32_t id)
{
    return id < MC_MECHANISMS ? mechanism_table[id] : NULL;
}
