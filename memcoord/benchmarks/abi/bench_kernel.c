/* bench_kernel.c: see bench_kernel.h. */
#include "bench_kernel.h"

#include <unistd.h>

static void touch_all(int64_t address, uint64_t bytes)
{
    volatile uint8_t *memory = (volatile uint8_t *)(uintptr_t)address;
    for (uint64_t at = 0; at < bytes; at += MC_FRAME_BYTES)
        memory[at] = 1;
}

static int kernel_measure(int fd, int kind, uint64_t bytes, const int64_t maps[2],
                          uint64_t *touch_ns, uint64_t *punch_ns)
{
    uint64_t start_ns;
    if (mc_advise_backing((uint64_t)maps[0], bytes, kind) ||
        mc_advise_backing((uint64_t)maps[1], bytes, kind))
        return MC_EKERNEL;
    start_ns = mc_clock_ns();
    touch_all(maps[0], bytes);
    *touch_ns = mc_clock_ns() - start_ns;
    if (mc_populate_read((uint64_t)maps[1], bytes))
        return MC_EKERNEL;
    start_ns = mc_clock_ns();
    if (mc_punch(fd, 0, bytes))
        return MC_EKERNEL;
    *punch_ns = mc_clock_ns() - start_ns;
    return MC_OK;
}

int mcb_kernel_pages(const char *directory, int kind, uint64_t bytes, uint64_t *touch_ns,
                     uint64_t *punch_ns)
{
    int fd = directory[0] ? mc_tmpfile(directory, bytes) : mc_memfd("memcoord-bench", bytes);
    int64_t maps[2];
    int status = MC_EKERNEL;
    if (fd < 0)
        return status;
    maps[0] = mc_map(fd, bytes), maps[1] = mc_map(fd, bytes);
    if (maps[0] > 0 && maps[1] > 0)
        status = kernel_measure(fd, kind, bytes, maps, touch_ns, punch_ns);
    for (int i = 0; i < 2; i++)
        if (maps[i] > 0)
            mc_unmap((uint64_t)maps[i], bytes);
    close(fd);
    return status;
}

int64_t mcb_kernel_zeroes(int kind, uint64_t run_ns)
{
    uint64_t until_ns = mc_clock_ns() + run_ns;
    int64_t times = 0;
    while (mc_clock_ns() < until_ns) {
        int64_t address = mc_map_anonymous(MC_AREA_BYTES);
        if (address <= 0 || mc_advise_backing((uint64_t)address, MC_AREA_BYTES, kind))
            return MC_EKERNEL;
        touch_all(address, MC_AREA_BYTES);
        mc_unmap((uint64_t)address, MC_AREA_BYTES);
        times++;
    }
    return times;
}
