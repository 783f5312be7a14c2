/* mechanisms.c: the table of mechanisms, and the options of each. See mechanism.h. */
#include "mechanism.h"

#include <string.h>

#define MECHANISM_ROW(id, mechanism) [MC_##id] = &mc_##mechanism,
static const struct mc_mechanism *const mechanism_table[] = {MC_MECHANISM_LIST(MECHANISM_ROW)};

_Static_assert(sizeof mechanism_table / sizeof *mechanism_table == MC_MECHANISMS,
               "every enum mc_mechanism_id has its row");

const struct mc_mechanism *mc_mechanism(uint32_t id)
{
    return id < MC_MECHANISMS ? mechanism_table[id] : NULL;
}

int mc_mechanism_find(const char *name)
{
    for (uint32_t id = 0; id < MC_MECHANISMS; id++)
        if (!strcmp(mechanism_table[id]->name, name))
            return (int)id;
    return MC_EINDEX;
}

int mc_option_find(int mechanism, const char *name, uint64_t *least, uint64_t *most)
{
    const struct mc_mechanism *found = mc_mechanism((uint32_t)mechanism);

    MC_CHECK(found, "option of mechanism %d", mechanism);
    for (int i = 0; i < MC_OPTIONS_MAX && found->options[i].name; i++)
        if (!strcmp(found->options[i].name, name)) {
            *least = found->options[i].least;
            *most = found->options[i].most;
            return i;
        }
    return MC_EINDEX;
}

void mc_option_defaults(int mechanism, uint64_t *options)
{
    const struct mc_mechanism *found = mc_mechanism((uint32_t)mechanism);

    MC_CHECK(found, "options of mechanism %d", mechanism);
    for (int i = 0; i < MC_OPTIONS_MAX; i++)
        options[i] = found->options[i].value;
}

int mc_mechanism_dma_safe(int mechanism)
{
    const struct mc_mechanism *found = mc_mechanism((uint32_t)mechanism);

    MC_CHECK(found, "mechanism %d is safe?", mechanism);
    return found->dma_safe;
}
