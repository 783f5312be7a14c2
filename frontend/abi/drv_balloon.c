/* drv_balloon.c: virtio-balloon, guest half. See balloon.h and driver.h; Linux'
 * drivers/virtio/virtio_balloon.c is what it is after.
 *
 * The balloon is a stack of frames that the allocator has handed out to the driver. Inflating takes
 * 256 frames from the allocator, tells the host and waits; deflating tells the host first
 * (VIRTIO_BALLOON_F_MUST_TELL_HOST) and gives them to the allocator then. An allocation that finds
 * nothing deflates 256 frames (deflate on OOM); thereafter the balloon does not grow again before
 * the host asks anew. Without free frames the balloon stays as large as it has become and is tried
 * again after 200 ms, as Linux does.
 *
 * Frames that the host refused (pinned for DMA) wait on top of the stack's memory until the balloon
 * is as large as it can be, so that the allocator does not offer them again meanwhile.
 */
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
    uint64_t total;             /* frames of the domain, the stack's room */
    uint64_t count;             /* frames in the balloon: stack[0] and up */
    uint64_t refused;           /* frames the host refused: stack[total - 1] and down */
    uint32_t *stack;
    uint8_t *reported;          /* balloon_report.h; NULL when the host does not want reports */
    uint64_t report_ns;         /* when the next ones are due */
};

static uint64_t wanted_pages(const struct mc_guest *guest)
{
    return __atomic_load_n(&guest->control->config[MC_BALLOON_NUM_PAGES], __ATOMIC_ACQUIRE);
}

static void set_word(struct mc_guest *guest, int word, uint64_t value)
{
    __atomic_store_n(&guest->control->driver[word], value, __ATOMIC_RELAXED);
}

static void set_actual(struct mc_guest *guest, const struct balloon *balloon)
{
    set_word(guest, MC_BALLOON_ACTUAL, balloon->count);
}

int64_t mc_balloon_tell(struct mc_guest *guest, int op, const uint32_t *frames, uint32_t count,
                        uint64_t *not_done)
{
    struct mc_record record = {.op = (uint16_t)op, .arg = {count}};
    int64_t done;

    memcpy(mc_balloon_array(guest->control), frames, count * sizeof *frames);
    done = mc_ask(guest, &record);
    memcpy(not_done, &record.arg[1], 4 * sizeof *not_done);
    return done;
}

static int is_set(const uint64_t *bits, uint32_t i)
{
    return bits[i / 64] >> i % 64 & 1;
}

/* An array nobody answered is in the balloon: should the host not have it, deflating tells. */
static int64_t inflate(struct mc_guest *guest, struct balloon *balloon, uint64_t most)
{
    uint32_t frames[MC_BALLOON_ARRAY_PFNS_MAX];
    uint64_t not_done[4];
    int64_t taken, done;

    most = most < MC_BALLOON_ARRAY_PFNS_MAX ? most : MC_BALLOON_ARRAY_PFNS_MAX;
    taken = mc_frames_alloc_many(&guest->frames, balloon->slot, frames, most);
    if (taken <= 0)
        return balloon->refused ? MC_EPERM : MC_ESTATE;
    done = mc_balloon_tell(guest, MC_OP_BALLOON_INFLATE, frames, (uint32_t)taken, not_done);
    for (uint32_t i = 0; i < taken; i++)
        if (done >= 0 && is_set(not_done, i))
            balloon->stack[balloon->total - ++balloon->refused] = frames[i];
        else
            balloon->stack[balloon->count++] = frames[i];
    set_actual(guest, balloon);
    return done < 0 ? done : taken;
}

/* Frames gained (> 0), or a status. */
static int64_t deflate(struct mc_guest *guest, struct balloon *balloon, uint64_t most)
{
    uint32_t frames[MC_BALLOON_ARRAY_PFNS_MAX], given = 0, count;
    uint64_t not_done[4];
    int64_t done;
    int status;

    most = most < MC_BALLOON_ARRAY_PFNS_MAX ? most : MC_BALLOON_ARRAY_PFNS_MAX;
    count = (uint32_t)(most < balloon->count ? most : balloon->count);
    if (count == 0)
        return MC_ENOMEM;
    memcpy(frames, balloon->stack + balloon->count - count, count * sizeof *frames);
    done = mc_balloon_tell(guest, MC_OP_BALLOON_DEFLATE, frames, count, not_done);
    if (done < 0)
        return done;
    balloon->count -= count;
    for (uint32_t i = 0; i < count; i++)
        if (is_set(not_done, i))
            balloon->stack[balloon->count++] = frames[i];
        else
            frames[given++] = frames[i];
    mc_frames_free_many(&guest->frames, balloon->slot, frames, given, &status);
    mc_slot_drain(&guest->frames, balloon->slot);
    set_actual(guest, balloon);
    return given ? (int64_t)given : MC_ENOMEM;
}

/* The host asks anew with every change of its configuration. */
static void note_bell(struct mc_guest *guest, struct balloon *balloon)
{
    uint32_t bell = atomic_load(&guest->control->config_bell);

    if (bell == balloon->bell)
        return;
    balloon->bell = bell;
    balloon->pressed = 0;
}

/* One array towards the size asked for: frames moved; 0: there are none to move; or a status. */
static int64_t approach(struct mc_guest *guest, struct balloon *balloon)
{
    uint64_t wanted = wanted_pages(guest);

    note_bell(guest, balloon);
    if (wanted > balloon->total)
        wanted = balloon->total;
    if (balloon->count > wanted)
        return deflate(guest, balloon, balloon->count - wanted);
    if (balloon->count == wanted)
        return 0;
    return balloon->pressed ? MC_ESTATE : inflate(guest, balloon, wanted - balloon->count);
}

static void give_refused(struct mc_guest *guest, struct balloon *balloon)
{
    int status;

    mc_frames_free_many(&guest->frames, balloon->slot,
                        balloon->stack + balloon->total - balloon->refused, balloon->refused,
                        &status);
    balloon->refused = 0;
    mc_slot_drain(&guest->frames, balloon->slot);
}

/* 0 when the domain was rebooted under this guest, whose slot nobody knows any more. */
static int is_current(const struct mc_guest *guest, const struct balloon *balloon)
{
    return atomic_load(&guest->frames.slots[balloon->slot].owner) == SLOT_OWNER;
}

/* The lock is let go between arrays: an allocation may be waiting to deflate. */
static int resize(struct mc_guest *guest, struct balloon *balloon)
{
    int64_t status = 1;

    for (int i = 0; i < ARRAYS_PER_STEP_MAX; i++) {
        if (__atomic_load_n(&guest->own->stop, __ATOMIC_ACQUIRE))
            break;
        pthread_mutex_lock(&balloon->lock);
        status = approach(guest, balloon);
        if (status <= 0)
            give_refused(guest, balloon);
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

static void report_statistics(struct mc_guest *guest, const struct balloon *balloon)
{
    uint64_t held = __atomic_load_n(&guest->control->driver[MC_BALLOON_ACTUAL], __ATOMIC_RELAXED);
    const struct mc_control *control = guest->control;
    struct mc_frames_statistics counted;
    uint64_t free_frames, file_frames = atomic_load(&control->file_frames);

    mc_frames_statistics(&guest->frames, &counted);
    free_frames = counted.free_frames + counted.slot_frames;
    set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_SWAP_IN,
             told(atomic_load(&control->swap_ins), MC_FRAME_BYTES));
    set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_SWAP_OUT,
             told(atomic_load(&control->swap_outs), MC_FRAME_BYTES));
    set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_MAJFLT, told(atomic_load(&control->faults), 1));
    set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_MINFLT, counted.prepares);
    set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_MEMFREE, free_frames * MC_FRAME_BYTES);
    set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_MEMTOT,
             (balloon->total - held) * MC_FRAME_BYTES);
    set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_AVAIL,
             (free_frames + file_frames) * MC_FRAME_BYTES);
    set_word(guest, MC_BALLOON_STATS + MC_BALLOON_S_CACHES, file_frames * MC_FRAME_BYTES);
}

/* Free memory, when it is due. Linux does so a while after something was freed: the same delay. */
static uint64_t report_free(struct mc_guest *guest, struct balloon *balloon, uint64_t now_ns)
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

static int step(struct mc_guest *guest, uint64_t now_ns, uint64_t *next_ns)
{
    struct balloon *balloon = guest->own->device;
    uint64_t stats_ns = guest->control->options[MC_BALLOON_STATS_MS] * NS_PER_MS;
    int status;

    *next_ns = UINT64_MAX;
    if (!is_current(guest, balloon))
        return MC_EGONE;
    status = resize(guest, balloon);
    if (status == MC_STEP_MORE) {
        *next_ns = now_ns;
        return status;
    }
    *next_ns = report_free(guest, balloon, now_ns);
    report_statistics(guest, balloon);
    if (stats_ns && now_ns + stats_ns < *next_ns)
        *next_ns = now_ns + stats_ns;
    if (status < 0 && now_ns + RETRY_NS < *next_ns)
        *next_ns = now_ns + RETRY_NS;
    return status;
}

/* An allocation found nothing. What the host wants us to have anyway comes first. */
static int64_t more(struct mc_guest *guest, uint32_t areas, int *path)
{
    struct balloon *balloon = guest->own->device;
    uint64_t most = (uint64_t)areas * MC_AREA_FRAMES, wanted = wanted_pages(guest), gained = 0;
    int64_t got = 1;
    int pressed = 0;

    *path = MC_PATH_RING;
    pthread_mutex_lock(&balloon->lock);
    note_bell(guest, balloon);
    if (balloon->count <= wanted) {
        most = MC_BALLOON_ARRAY_PFNS_MAX;       /* as Linux does, VIRTIO_BALLOON_OOM_NR_PAGES */
        pressed = guest->control->options[MC_BALLOON_OOM] != 0;
        got = pressed ? 1 : MC_ETARGET;
    } else if (balloon->count - wanted < most) {
        most = balloon->count - wanted;
    }
    while (gained < most && got > 0) {      /* every round gains a frame */
        got = deflate(guest, balloon, most - gained);
        gained += got > 0 ? (uint64_t)got : 0;
    }
    balloon->pressed |= pressed && gained;
    if (balloon->pressed)
        atomic_store(&guest->control->driver_status, MC_ESTATE);
    pthread_mutex_unlock(&balloon->lock);
    return gained ? (int64_t)((gained + MC_AREA_FRAMES - 1) / MC_AREA_FRAMES) : got;
}

/* Areas that came evicted are in the balloon from the start. They are taken from the allocator as
 * any other frames, before anybody else is there; the host has their frames already. */
static void begin_inflated(struct mc_guest *guest, struct balloon *balloon)
{
    mc_prepare_fn prepare = guest->frames.prepare;
    int64_t taken;

    guest->frames.prepare = NULL;           /* it would ask for them */
    taken = mc_frames_alloc_many(&guest->frames, balloon->slot, balloon->stack, balloon->total);
    for (int64_t i = 0; i < taken; i++) {
        uint32_t frame = balloon->stack[i];

        if (guest->frames.areas[frame / MC_AREA_FRAMES] & MC_AREA_EVICTED)
            balloon->stack[balloon->count++] = frame;
        else
            mc_frames_free(&guest->frames, balloon->slot, frame, 0);
    }
    mc_slot_drain(&guest->frames, balloon->slot);
    for (uint64_t i = 0; i < balloon->count; i++)
        __atomic_fetch_and(&guest->frames.areas[balloon->stack[i] / MC_AREA_FRAMES],
                           ~(uint32_t)MC_AREA_EVICTED, __ATOMIC_RELAXED);
    guest->frames.prepare = prepare;
}

static int open_balloon(struct mc_guest *guest)
{
    struct balloon *balloon = calloc(1, sizeof *balloon);

    if (balloon == NULL)
        return MC_ENOMEM;
    guest->own->device = balloon;
    pthread_mutex_init(&balloon->lock, NULL);
    balloon->total = (uint64_t)guest->frames.area_count * MC_AREA_FRAMES;
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
        begin_inflated(guest, balloon);
    set_actual(guest, balloon);
    /* What a guest before us said of the configuration is void. */
    atomic_store(&guest->control->driver_status, MC_STEP_MORE);
    return MC_OK;
}

static void close_balloon(struct mc_guest *guest)
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
    .name = "balloon",
    .id = MC_BALLOON,
    .open = open_balloon,
    .close = close_balloon,
    .step = step,
    .more = more,
};
