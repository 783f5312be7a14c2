/* drv_hyperalloc.c: not built. See driver.h. */
#include "driver.h"

const struct mc_driver mc_drv_hyperalloc = {
    .name = "hyperalloc",
    .id = MC_HYPERALLOC,
};
