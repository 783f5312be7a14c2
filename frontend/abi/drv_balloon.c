/* drv_balloon.c: virtio-balloon, guest half, as Linux' drivers/virtio/virtio_balloon.c. See
 * balloon.h and driver.h.
 *
 * The balloon is a stack of frames that the allocator has handed out to the driver. Inflating takes
 * 256 frames from the allocator, tells the host and waits; deflating first tells the host
 * (VIRTIO_BALLOON_F_MUST_TELL_HOST), then gives the frames to the allocator. An allocation that
 * finds nothing deflates 256 frames (deflate on OOM); thereafter the balloon does not grow until
 * the host asks anew. When there are no free frames the balloon keeps its size, and the driver
 * tries again after 200 ms, as Linux does.
 *
 * Frames that the host refused, because they are pinned for DMA, wait at the other end of the stack
 * until the balloon is as large as it can be. So the allocator does not offer them again meanwhile.
 */
#include "balloon_array.h"
#include "balloon_report.h"

#include <stdlib.h>
#include <string.h>

#define RETRY_NS 200000000ull
#define NS_PER_MS 1000000ull
#define ARRAYS_PER_STEP_MAX 64
#define SLOT_OWNER UINT32_MAX

struct balloon {
    pthread_mutex_t lock;       /* Linux' balloon_lock: the array, the slot and the stack */
    int slot;
    int pressed;                /* deflated on OOM since the host asked last */
    uint32_t bell;              /* config_bell when the host asked last */
    uint32_t unit;              /* frames of an entry of stack and array: 1, or an area's */
    uint64_t total;             /* entries that the domain has, the stack's room */
    uint64_t count;             /* entries in the balloon: stack[0] and up */
    uint64_t refused;           /* entries the host refused: stack[total - 1] and down */
    uint32_t *stack;
    uint8_t *reported;          /* balloon_report.h; NULL when the host does not want reports */
    uint64_t report_ns;         /* when the next reports are due */
};

/* Entries that the balloon shall hold. */
static uint64_t balloon_wanted(const struct mc_guest *guest, const struct balloon *balloon)
{
    return __atomic_load_n(&guest->control->config[MC_BALLOON_NUM_PAGES], __ATOMIC_ACQUIRE) /
           balloon->unit;
}

/* Up to `most` entries out of the allocator: how many. */
static int64_t balloon_take(struct mc_guest *guest, const struct balloon *balloon, uint32_t *out,
                            uint64_t most)
{
    int64_t taken = 0;
    if (balloon->unit == 1)
        return mc_frames_alloc_many(&guest->frames, balloon->slot, out, most);
    for (; (uint64_t)taken < most; taken++) {
        int64_t first = mc_frames_alloc_areas(&guest->frames, balloon->slot, 1);
        if (first < 0)
            break;
        out[taken] = (uint32_t)first;
    }
    return taken;
}

/* Entries for the allocator. */
static void balloon_give(struct mc_guest *guest, const struct balloon *balloon,
                         const uint32_t *entries, uint64_t count)
{
    int status;
    if (balloon->unit == 1)
        mc_frames_free_many(&guest->frames, balloon->slot, entries, count, &status);
    for (uint64_t i = 0; i < count && balloon->unit > 1; i++)
        mc_frames_free_areas(&guest->frames, balloon->slot, entries[i], 1);
    mc_slot_drain(&guest->frames, balloon->slot);
}

static void balloon_set_word(struct mc_guest *guest, int word, uint64_t value)
{
    __atomic_store_n(&guest->control->driver[word], value, __ATOMIC_RELAXED);
}

static void balloon_set_actual(struct mc_guest *guest, const struct balloon *balloon)
{
    balloon_set_word(guest, MC_BALLOON_ACTUAL, balloon->count * balloon->unit);
}

/* Entries taken (> 0), or a status. Entries of an array that got no answer count as in the balloon:
 * deflating tells the host of them in any case. */
static int64_t balloon_inflate(struct mc_guest *guest, struct balloon *balloon, uint64_t most)
{
    uint32_t frames[MC_BALLOON_ARRAY_PFNS_MAX];
    uint64_t not_done[MC_BALLOON_BITS];
    most = most < MC_BALLOON_ARRAY_PFNS_MAX ? most : MC_BALLOON_ARRAY_PFNS_MAX;
    int64_t taken = balloon_take(guest, balloon, frames, most);
    if (taken <= 0)
        return balloon->refused ? MC_EPERM : MC_ESTATE;
    int64_t done = mc_balloon_tell(guest, MC_OP_BALLOON_INFLATE, frames, (uint32_t)taken, not_done);
    for (uint32_t i = 0; i < taken; i++)
        if (done >= 0 && mc_balloon_is_set(not_done, i))
            balloon->stack[balloon->total - ++balloon->refused] = frames[i];
        else
            balloon->stack[balloon->count++] = frames[i];
    balloon_set_actual(guest, balloon);
    return done < 0 ? done : taken;
}

/* Entries gained (> 0), or a status. */
static int64_t balloon_deflate(struct mc_guest *guest, struct balloon *balloon, uint64_t most)
{
    uint32_t frames[MC_BALLOON_ARRAY_PFNS_MAX], given = 0;
    uint64_t not_done[MC_BALLOON_BITS];
    most = most < MC_BALLOON_ARRAY_PFNS_MAX ? most : MC_BALLOON_ARRAY_PFNS_MAX;
    uint32_t count = (uint32_t)(most < balloon->count ? most : balloon->count);
    if (count == 0)
        return MC_ENOMEM;
    memcpy(frames, balloon->stack + balloon->count - count, count * sizeof *frames);
    int64_t done = mc_balloon_tell(guest, MC_OP_BALLOON_DEFLATE, frames, count, not_done);
    if (done < 0)
        return done;
    balloon->count -= count;
    for (uint32_t i = 0; i < count; i++)
        if (mc_balloon_is_set(not_done, i))
            balloon->stack[balloon->count++] = frames[i];
        else
            frames[given++] = frames[i];
    balloon_give(guest, balloon, frames, given);
    balloon_set_actual(guest, balloon);
    return given ? (int64_t)given : MC_ENOMEM;
}

/* The host asks anew with every change of its configuration. */
static void balloon_note_bell(struct mc_guest *guest, struct balloon *balloon)
{
    uint32_t bell = atomic_load(&guest->control->config_bell);
    if (bell == balloon->bell)
        return;
    balloon->bell = bell;
    balloon->pressed = 0;
}

/* Move one array towards the size asked for: how many entries were moved; 0 when the size is
 * reached; or a status. */
static int64_t balloon_approach(struct mc_guest *guest, struct balloon *balloon)
{
    uint64_t wanted = balloon_wanted(guest, balloon);
    balloon_note_bell(guest, balloon);
    if (wanted > balloon->total)
        wanted = balloon->total;
    if (balloon->count > wanted)
        return balloon_deflate(guest, balloon, balloon->count - wanted);
    if (balloon->count == wanted)
        return 0;
    return balloon->pressed ? MC_ESTATE : balloon_inflate(guest, balloon, wanted - balloon->count);
}

static void balloon_give_refused(struct mc_guest *guest, struct balloon *balloon)
{
    balloon_give(guest, balloon, balloon->stack + balloon->total - balloon->refused,
                 balloon->refused);
    balloon->refused = 0;
}

/* 0 after a reboot of the domain: this guest's slot does not exist any more. */
static int balloon_is_current(const struct mc_guest *guest, const struct balloon *balloon)
{
    return atomic_load(&guest->frames.slots[balloon->slot].owner) == SLOT_OWNER;
}

/* Moves arrays until the size is reached. The lock is free between two arrays, because an
 * allocation may be waiting to deflate. */
static int balloon_resize(struct mc_guest *guest, struct balloon *balloon)
{
    int64_t status = 1;
    for (int i = 0; i < ARRAYS_PER_STEP_MAX; i++) {
        if (mc_guest_is_stopping(guest))
            break;
        pthread_mutex_lock(&balloon->lock);
        status = balloon_approach(guest, balloon);
        if (status <= 0)
            balloon_give_refused(guest, balloon);
        pthread_mutex_unlock(&balloon->lock);
        if (status <= 0)
            break;
    }
    return status > 0 ? MC_STEP_MORE : (int)status;
}

/* A statistic of virtio's, in bytes or pieces: all bits set when the guest does not report it. */
static uint64_t told(int64_t count, uint64_t each)
{
    return count < 0 ? UINT64_MAX : (uint64_t)count * each;
}

static void balloon_report_statistics(struct mc_guest *guest, const struct balloon *balloon)
{
    uint64_t held = __atomic_load_n(&guest->control->driver[MC_BALLOON_ACTUAL], __ATOMIC_RELAXED);
    const struct mc_control *control = guest->control;
    struct mc_frames_statistics counted;
    mc_frames_statistics(&guest->frames, &counted);
    uint64_t file_frames = atomic_load(&control->file_frames);
    uint64_t free_frames = counted.free_frames + counted.slot_frames;
    balloon_set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_SWAP_IN,
                     told(atomic_load(&control->swap_ins), MC_FRAME_BYTES));
    balloon_set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_SWAP_OUT,
                     told(atomic_load(&control->swap_outs), MC_FRAME_BYTES));
    balloon_set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_MAJFLT,
                     told(atomic_load(&control->faults), 1));
    balloon_set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_MINFLT, counted.prepares);
    balloon_set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_MEMFREE, free_frames * MC_FRAME_BYTES);
    balloon_set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_MEMTOT,
                     (balloon->total * balloon->unit - held) * MC_FRAME_BYTES);
    balloon_set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_AVAIL,
                     (free_frames + file_frames) * MC_FRAME_BYTES);
    balloon_set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_CACHES, file_frames * MC_FRAME_BYTES);
}

/* Report free areas when that is due; when it is due next. Linux reports that long after a free. */
static uint64_t balloon_report_free(struct mc_guest *guest, struct balloon *balloon,
                                    uint64_t now_ns)
{
    int again = now_ns >= balloon->report_ns;
    if (balloon->reported == NULL)
        return UINT64_MAX;
    if (again)
        balloon->report_ns = now_ns + guest->control->options[MC_BALLOON_REPORT_MS] * NS_PER_MS;
    for (uint32_t i = 0; i < guest->frames.area_count && again; i++) {
        pthread_mutex_lock(&balloon->lock);
        again = mc_balloon_report(guest, balloon->reported);
        pthread_mutex_unlock(&balloon->lock);
    }
    return balloon->report_ns;
}

static int balloon_step(struct mc_guest *guest, uint64_t now_ns, uint64_t *next_ns)
{
    struct balloon *balloon = guest->own->device;
    uint64_t stats_ns = guest->control->options[MC_BALLOON_STATS_MS] * NS_PER_MS;
    *next_ns = UINT64_MAX;
    if (!balloon_is_current(guest, balloon))
        return MC_EGONE;
    int status = balloon_resize(guest, balloon);
    if (status == MC_STEP_MORE) {
        *next_ns = now_ns;
        return status;
    }
    *next_ns = balloon_report_free(guest, balloon, now_ns);
    balloon_report_statistics(guest, balloon);
    if (stats_ns && now_ns + stats_ns < *next_ns)
        *next_ns = now_ns + stats_ns;
    if (status < 0 && now_ns + RETRY_NS < *next_ns)
        *next_ns = now_ns + RETRY_NS;
    return status;
}

/* An allocation found nothing. Frames beyond the size that the host asks for come first; then, on
 * OOM, any. */
static int64_t balloon_more(struct mc_guest *guest, uint32_t areas, int *path)
{
    struct balloon *balloon = guest->own->device;
    uint64_t most = (uint64_t)areas * MC_AREA_FRAMES / balloon->unit, gained = 0;
    uint64_t wanted = balloon_wanted(guest, balloon);
    int64_t got = 1;
    int pressed = 0;
    *path = MC_PATH_RING;
    pthread_mutex_lock(&balloon->lock);
    balloon_note_bell(guest, balloon);
    if (balloon->count <= wanted) {
        /* As Linux does, VIRTIO_BALLOON_OOM_NR_PAGES. */
        most = balloon->unit == 1 ? MC_BALLOON_ARRAY_PFNS_MAX : 1;
        pressed = guest->control->options[MC_BALLOON_OOM] != 0;
        got = pressed ? 1 : MC_ETARGET;
    } else if (balloon->count - wanted < most) {
        most = balloon->count - wanted;
    }
    while (gained < most && got > 0) {      /* every round gains a frame */
        got = balloon_deflate(guest, balloon, most - gained);
        gained += got > 0 ? (uint64_t)got : 0;
    }
    balloon->pressed |= pressed && gained;
    if (balloon->pressed)
        atomic_store(&guest->control->driver_status, MC_ESTATE);
    pthread_mutex_unlock(&balloon->lock);
    gained *= balloon->unit;
    return gained ? (int64_t)((gained + MC_AREA_FRAMES - 1) / MC_AREA_FRAMES) : got;
}

/* Areas that the host granted without backing are in the balloon from the start: the host has their
 * frames already. The driver takes these frames from the allocator, before any other thread
 * runs. */
static void balloon_begin_inflated(struct mc_guest *guest, struct balloon *balloon)
{
    const union mc_area_word evicted = {.evicted = 1};
    mc_prepare_fn prepare = guest->frames.prepare;
    guest->frames.prepare = NULL;           /* which would ask the host to install them */
    int64_t taken = balloon_take(guest, balloon, balloon->stack, balloon->total);
    for (int64_t i = 0; i < taken; i++) {
        uint32_t frame = balloon->stack[i];
        if (mc_word(&guest->frames, frame / MC_AREA_FRAMES).evicted)
            balloon->stack[balloon->count++] = frame;
        else
            balloon_give(guest, balloon, &frame, 1);
    }
    for (uint64_t i = 0; i < balloon->count; i++)
        __atomic_fetch_and(&guest->frames.areas[balloon->stack[i] / MC_AREA_FRAMES],
                           ~evicted.bits, __ATOMIC_RELAXED);
    guest->frames.prepare = prepare;
}

static int balloon_open(struct mc_guest *guest)
{
    struct balloon *balloon = calloc(1, sizeof *balloon);
    if (balloon == NULL)
        return MC_ENOMEM;
    guest->own->device = balloon;
    pthread_mutex_init(&balloon->lock, NULL);
    balloon->unit = guest->control->options[MC_BALLOON_HUGE] ? MC_AREA_FRAMES : 1;
    balloon->total = (uint64_t)guest->frames.area_count * MC_AREA_FRAMES / balloon->unit;
    balloon->stack = malloc(balloon->total * sizeof *balloon->stack);
    balloon->slot = mc_slot_claim(&guest->frames, SLOT_OWNER);
    if (balloon->stack == NULL || balloon->slot < 0)
        return balloon->slot < 0 ? MC_ESLOT : MC_ENOMEM;
    if (guest->control->options[MC_BALLOON_REPORT_MS]) {
        balloon->reported = mc_balloon_report_open(guest);
        balloon->report_ns = mc_clock_ns() +
                             guest->control->options[MC_BALLOON_REPORT_MS] * NS_PER_MS;
        if (balloon->reported == NULL)
            return MC_ENOMEM;
    }
    if (guest->control->boot_areas < guest->frames.area_count)
        balloon_begin_inflated(guest, balloon);
    balloon_set_actual(guest, balloon);
    /* The status that a guest before this one reported is void. */
    atomic_store(&guest->control->driver_status, MC_STEP_MORE);
    return MC_OK;
}

static void balloon_close(struct mc_guest *guest)
{
    struct balloon *balloon = guest->own->device;
    if (balloon == NULL)
        return;
    if (balloon->slot >= 0)
        mc_slot_release(&guest->frames, balloon->slot);
    pthread_mutex_destroy(&balloon->lock);
    free(balloon->stack);
    free(balloon->reported);
    free(balloon);
    guest->own->device = NULL;
}

const struct mc_driver mc_drv_balloon = {
    .name = "balloon", .id = MC_BALLOON, .open = balloon_open, .close = balloon_close,
    .step = balloon_step, .more = balloon_more,
};
