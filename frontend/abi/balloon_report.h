/* balloon_report.h: free page reporting, guest half. Private to drv_balloon.c.
 *
 * As Linux' mm/page_reporting.c: areas that are wholly free, and were not reported since their last
 * use, are taken out of the allocator, reported in batches of 32, and put back. They stay the
 * guest's: the guest may touch a reported area again without asking.
 */
#ifndef MC_BALLOON_REPORT_H
#define MC_BALLOON_REPORT_H

#include "guest_private.h"

/* One byte per area: 1 when it was reported and not used since. NULL: no memory. */
uint8_t *mc_balloon_report_open(const struct mc_guest *guest);
/* Report one batch; 1 when there may be another. The caller holds the balloon's lock. */
int mc_balloon_report(struct mc_guest *guest, uint8_t *reported);

#endif
