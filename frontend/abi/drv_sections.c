/* drv_sections.c: not built. See driver.h. */
#include "driver.h"

const struct mc_driver mc_drv_sections = {
    .name = "sections",
    .id = MC_SECTIONS,
};
