/* drv_virtio_mem.c: not built. See driver.h. */
#include "driver.h"

const struct mc_driver mc_drv_virtio_mem = {
    .name = "virtio-mem",
    .id = MC_VIRTIO_MEM,
};
