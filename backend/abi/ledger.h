/* ledger.h: host memory to the frame: who has it, where it is, and the few ways it moves.
 *
 * Owns:  the states of areas, the holes in them, pins, and every counter that adds up to the host.
 * Rules: all under mc_host.lock. A mechanism moves memory by these functions alone; then the sums
 *        are right whatever it does. "May release the lock" means that anything may have changed.
 *
 * free + installed + ready + transit + tmem == total, in frames, after every change:
 *
 *   state of an area         its 512 frames,   meaning
 *                            less its holes
 *   HARD, SOFT               free              no backing; SOFT: the guest may take it, asking
 *   POPULATING               transit           the kernel is being asked for its pages
 *   READY                    ready             populated, the guest does not know yet
 *   INSTALLED                installed         the guest's. It may be without pages still: they
 *                                              come as it touches them, and are paid for already
 *   PUNCH_HARD, PUNCH_SOFT   transit           taken from the guest, to be punched by the worker
 *   PUNCHING_HARD, _SOFT     transit           the punch is running
 *
 * A hole is a frame of an installed area that the guest gave back by itself (a balloon's): it is
 * free host memory like any other. It is in flight (transit) while it is punched.
 *
 * Every bank's free frames sum up to the host's. An area is of one bank: chosen when it is charged,
 * the one in domain->banks if that has room, else a local one before a remote one. Host memory that
 * is in use was bound to the node of its bank when the machine has more nodes than one, or more
 * banks than one were asked for.
 *
 * Pinned memory is never taken: mc_pull and mc_holes_make refuse it and count refused_dma. Nothing
 * else takes memory from a guest that lives.
 */
#ifndef MC_LEDGER_H
#define MC_LEDGER_H

#include "host.h"

#define MC_NO_BANK UINT32_MAX

/* cdef-begin */
/* The only way an area changes state: counts, ledger and banks follow. */
void mc_area_set(struct mc_host *host, struct mc_domain *domain, uint32_t area, int state);

/* Areas a domain has or is about to have. */
uint32_t mc_domain_held(const struct mc_domain *domain);
/* Memory on its way, of this domain. */
int mc_in_transit(const struct mc_domain *domain);
/* The bank `frames` free frames may come from, `wanted` if that has them; or MC_NO_BANK. */
uint32_t mc_bank_pick(const struct mc_host *host, uint64_t frames, uint32_t wanted);
/* 1 when that many may be given away: more is free than the slack and what is promised. */
int mc_has_free(const struct mc_host *host, uint64_t frames);
/* A hint, from the guest's own words: installed, wholly free, not pinned. */
int mc_is_spare(const struct mc_domain *domain, uint32_t area);
uint32_t mc_spare_areas(const struct mc_domain *domain, uint32_t enough);
/* First area in a state, or -1. */
int64_t mc_find_state(const struct mc_domain *domain, int state);

/* Take an area from its guest. The worker punches it; the guest's word decides every race.
 *   MC_PULL_HARD   wholly free -> the host's. A SOFT area: bookkeeping only.
 *   MC_PULL_SOFT   wholly free, installed -> SOFT
 *   MC_PULL_CLAIMED  the guest claimed it and offers it -> the host's
 * 0; MC_ESTATE when state or word do not allow it; MC_EPERM when it is pinned. */
enum mc_pull { MC_PULL_HARD, MC_PULL_SOFT, MC_PULL_CLAIMED };
int mc_pull(struct mc_host *host, struct mc_domain *domain, uint32_t area, enum mc_pull how);
/* mc_pull up to `most` areas from the top; how many. One pass. SOFT areas are taken on the way and
 * count only when `soft_counts`: they free no memory, but they make the guest smaller. */
uint32_t mc_pull_areas(struct mc_host *host, struct mc_domain *domain, uint32_t most,
                       enum mc_pull how, int soft_counts);

/* Give an area (HARD or SOFT) pages: ends in `state` (READY, or INSTALLED for a SOFT one), or as it
 * was and MC_ENOMEM. Releases the lock. The caller has made sure that it may be charged. */
int mc_populate(struct mc_host *host, struct mc_domain *domain, uint32_t area, int state);
/* READY -> INSTALLED: the guest's, with its pages. MC_ESTATE: the guest spoilt the word, the area
 * is lost to it. */
int mc_grant(struct mc_host *host, struct mc_domain *domain, uint32_t area);
/* HARD -> INSTALLED without pages. MC_ENOMEM when it may not be charged, MC_ESTATE. found: straight
 * after mc_supply_find said so, which may mean out of the slack. */
int mc_plug_found(struct mc_host *host, struct mc_domain *domain, uint32_t area);
int mc_plug(struct mc_host *host, struct mc_domain *domain, uint32_t area);
/* HARD -> INSTALLED, every frame a hole: the guest has it in its balloon, its word says evicted.
 * Charges nothing. MC_ESTATE. */
int mc_plug_hollow(struct mc_host *host, struct mc_domain *domain, uint32_t area);
/* HARD -> SOFT: the guest may take it when it asks. Charges nothing. MC_ESTATE. */
int mc_return(struct mc_host *host, struct mc_domain *domain, uint32_t area);

/* 1 when the host has this frame back. */
int mc_is_hole(const struct mc_domain *domain, uint64_t frame);

/* Single frames, as the guest named them: it has taken them out of use (make), or wants them again
 * (fill). Out of range, not installed, named twice, pinned: not done, and *bad counts it
 * (refused_dma too for a pin). make punches, neighbours in ascending order in one call,
 * and releases the lock; fill charges, and stops with what may be charged (`slack_too`: even out
 * of the slack). How many were done. */
uint32_t mc_holes_make(struct mc_host *host, struct mc_domain *domain, const uint32_t *frames,
                       uint32_t count, uint32_t *bad);
uint32_t mc_holes_fill(struct mc_host *host, struct mc_domain *domain, const uint32_t *frames,
                       uint32_t count, int slack_too, uint32_t *bad);

/* Charge or discharge an area of tmem's slab. */
void mc_tmem_charge(struct mc_host *host, uint32_t slab_area);
void mc_tmem_discharge(struct mc_host *host, uint32_t slab_area);

/* Everything of the domain is the host's: for close and reboot, when nobody else uses it. Pinned
 * areas stay installed when `keep_pinned`. Punches; the lock is not held. */
void mc_release_all(struct mc_host *host, struct mc_domain *domain, int keep_pinned);

/* worker.c: punch the first run of areas that are due, anybody's; 1 if there was one. Releases the
 * lock. */
int mc_punch_due(struct mc_host *host);
/* Wait, bounded, until the area's state is none of `states` (bits 1 << enum mc_area_state). */
void mc_wait_area(struct mc_host *host, const struct mc_domain *domain, uint32_t area,
                  uint32_t states);

/* supply.c: make sure that one area may be charged to this domain, from wherever that takes; sets
 * *path when it had to be taken away from somebody. 0, or MC_ENOMEM. May release the lock. */
int mc_supply_find(struct mc_host *host, const struct mc_domain *domain, int *path);
/* 1 when somebody gave an area: a donor that can spare it (from_donor: a ready one too); tmem. */
int mc_supply_take_spare(struct mc_host *host, const struct mc_domain *receiver);
int mc_supply_take_from_donor(struct mc_host *host, const struct mc_domain *receiver);
int mc_supply_tmem_give(struct mc_host *host);
/* cdef-end */

/* These areas of what is promised are for the domain that boots now, unless it only reboots. Just
 * before they are taken, in the same hold of the lock, or tmem would have them. */
static inline void mc_redeem(struct mc_host *host, const struct mc_domain *domain, uint32_t areas)
{
    uint64_t frames = (uint64_t)areas * MC_AREA_FRAMES;

    if (mc_phase_of(domain) == MC_EMPTY)
        host->promised_frames -= frames < host->promised_frames ? frames : host->promised_frames;
}

/* The worker has something to do. Of a thread that answers guests it is woken only by mc_work_now,
 * after the answers, or when the thread waits for `done`: a worker woken before preempts the answer
 * where CPUs are busy, and then populates for a millisecond. */
void mc_work(struct mc_host *host);
/* This thread answers guests from now on. */
void mc_work_later(void);
/* The answers are given: wake the worker if there was a reason. No lock needed. */
void mc_work_now(struct mc_host *host);

#endif
