/* drv_balloon.c: not built. See driver.h. */
#include "driver.h"

const struct mc_driver mc_drv_balloon = {
    .name = "balloon",
    .id = MC_BALLOON,
};
