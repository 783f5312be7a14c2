/* cmm.h: the protocol between the two halves of `cmm`, in both of its designs.
 *
 * Source: coordinated memory management (Mohapatra, dissertation, 2015), known by its abstract: a
 * split driver that moves memory between domains, and its revision inside the hypervisor.
 *
 * Options: [0] design, enum mc_cmm_design. [1] answer_ms: how long dom0 waits for this domain when
 * dom0 wants memory of this domain for another one.
 *
 * MC_CMM_HYPERVISOR: the guest uses GROW and RELEASE of ops.h and nothing else.
 *
 * MC_CMM_DOM0: the backend is a thread of its own, dom0. It shares the control page with the
 * frontend, and two event channels: the domain's eventfd wakes dom0, guest_bell and config_bell
 * wake the guest. (The service thread serves the memory ring. Asking there would put one more
 * thread between every two steps, which the original does not have.) A message is a word whose
 * upper half is a number that rises; its answer carries the same number. At most one message of
 * each kind is under way.
 *
 *   driver[ASK]       guest: areas wanted (1..64)
 *   config[ASKED]     dom0:  low 16 bits: areas granted, or an mc_status; next 16: enum mc_path
 *   driver[OFFER]     guest: how many areas (1..32) it has claimed (frames.h) and gives back
 *   driver[OFFERED]   guest: the numbers of these areas, 16 bits each, four to a word
 *   config[TAKEN]     dom0:  one bit for each area that it did not take, because the area is
 *                     pinned; the guest puts that area to use again
 *   requested_frames  dom0:  the size that the guest shall come to by offers. A size below the
 *                     target means that another domain needs memory. The driver's status says when
 *                     the guest has no more to offer.
 *
 * Counters, which nobody decides from:
 *   config[ASKS], config[TRANSFERS]   asks served; areas that a donor gave up for this domain
 *   config[WAITS]                     times dom0 waited for a donor for this domain (low 32), and
 *                                     times that the donor did not answer in time (high 32)
 *   driver[LATENCY], driver[WAITED]   ns that the last ask took, and all asks; in either design
 */
#ifndef MC_CMM_H
#define MC_CMM_H

#include "layout.h"
#include "ops.h"

#define MC_CMM_DESIGN 0             /* indices of the options */
#define MC_CMM_ANSWER 1
#define MC_CMM_OFFER_MAX 32

enum mc_cmm_design { MC_CMM_DOM0 = 0, MC_CMM_HYPERVISOR = 1 };

enum mc_cmm_driver_word {
    MC_CMM_ASK = 0,
    MC_CMM_OFFER = 1,
    MC_CMM_OFFERED = 2,             /* 8 words */
    MC_CMM_LATENCY = 10,
    MC_CMM_WAITED = 11
};

enum mc_cmm_config_word {
    MC_CMM_ASKED = 0,
    MC_CMM_TAKEN = 1,
    MC_CMM_ASKS = 2,
    MC_CMM_TRANSFERS = 3,
    MC_CMM_WAITS = 4
};

static inline uint64_t mc_cmm_message(uint32_t number, uint32_t content)
{
    return (uint64_t)number << 32 | content;
}

static inline uint32_t mc_cmm_number(uint64_t message)
{
    return (uint32_t)(message >> 32);
}

#endif
