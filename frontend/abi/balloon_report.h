/* balloon_report.h: free page reporting, guest half. Private to drv_balloon.c.
 *
 * After Linux' mm/page_reporting.c: what is free in runs of 2 MiB and was not reported since it was
 * used last is taken out of the allocator, reported in batches of 32, and put back. It stays the
 * guest's, which touches it again without a word: a report is no promise.
 */
#ifndef MC_BALLOON_REPORT_H
#define MC_BALLOON_REPORT_H

#include "driver.h"

#include "balloon.h"

/* The guest's own view: 1 per area that was reported and not used since. */
uint8_t *mc_balloon_report_open(const struct mc_guest *guest);
/* One batch; 1 when there may be another. The array is the caller's to use. */
int mc_balloon_report(struct mc_guest *guest, uint8_t *reported);

/* drv_balloon.c: tell the host and wait for its answer; bits of the frames that it did not do. */
int64_t mc_balloon_tell(struct mc_guest *guest, int op, const uint32_t *frames, uint32_t count,
                        uint64_t *not_done);

#endif
