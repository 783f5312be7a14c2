/* drv_cmm.c: not built. See driver.h. */
#include "driver.h"

const struct mc_driver mc_drv_cmm = {
    .name = "cmm",
    .id = MC_CMM,
};
