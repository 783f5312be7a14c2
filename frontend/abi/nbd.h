/* nbd.h: a block device (blocks.h) served to NBD clients on a socket, by one thread.
 *
 * Owns:  the thread, the connections and what they may cost. Spoken is the protocol of
 *        https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md: fixed newstyle,
 *        simple replies, structured replies to reads where the client asks for them; read, write,
 *        flush, trim, write-zeroes, cache; any number of bytes at any offset.
 * Rules: a client is not trusted. A length or an offset is copied, then checked, then used; what is
 *        wrong is answered with NBD's error, or the connection is closed. A connection is
 *        served a step at a time, MC_NBD_TURN_STEPS of them before the next one, and no step
 *        waits for a client: a client that sends half a header, or reads slowly, keeps its own
 *        connection from going on, and nothing else. All wait for the disk and, up to the
 *        guest's timeout, for the hypervisor.
 *          connections  at most `connections` with a device; MC_NBD_GREETING more that negotiate,
 *                       each for at most MC_NBD_GREETING_NS and MC_NBD_OPTIONS options. Others are
 *                       closed at once
 *          memory       MC_BLOCKS_WINDOW frames (the staging) for a connection with a device
 *          requests     one at a time from each connection, answered in order; those that
 *                       follow wait in the socket. Reads and writes up to MC_NBD_BYTES
 *        A write that fails leaves each of its blocks written or unreadable (blocks.h, LOST), never
 *        as it was; but where a block of which it covers a part cannot be read, the window that
 *        has it is left as it was.
 *        Nothing is kept back in the server: a write that was answered is in tmem or handed to
 *        the file, so flush and FUA have nothing to do, and every connection sees what
 *        another one wrote.
 */
#ifndef MC_NBD_H
#define MC_NBD_H

#include "blocks.h"

/* cdef-begin */
#define MC_NBD_CONNECTIONS_MAX 64
#define MC_NBD_GREETING 8
#define MC_NBD_GREETING_NS 10000000000
#define MC_NBD_OPTIONS 64
#define MC_NBD_OPTION_BYTES 4608        /* a name has up to 4096 */
#define MC_NBD_BYTES 33554432
#define MC_NBD_TURN_STEPS 16
#define MC_NBD_NAME_BYTES 64

struct mc_nbd;

struct mc_nbd_options {
    struct mc_blocks *blocks;   /* outlives the server, which alone uses it */
    int listen_fd;              /* a listening stream socket; stays the caller's */
    uint32_t connections;       /* 1..MC_NBD_CONNECTIONS_MAX */
    const uint32_t *stagings;   /* connections + 1 runs of MC_BLOCKS_WINDOW frames, read at start */
    char name[MC_NBD_NAME_BYTES];   /* of the export; the empty name means it too */
    uint64_t greeting_ns;       /* MC_NBD_GREETING_NS */
};

struct mc_nbd_statistics {
    uint64_t accepted, turned_away;     /* connections */
    uint64_t requests, errors;          /* answered; of those, with an error */
    uint64_t broken_off;                /* connections that were closed for what they sent */
    uint64_t connections;               /* now */
};

/* 0, MC_ENOMEM, MC_EKERNEL. */
int mc_nbd_start(struct mc_nbd **nbd, const struct mc_nbd_options *options);
/* Close every connection, end the thread; *last gets the statistics of its end. */
void mc_nbd_stop(struct mc_nbd *nbd, struct mc_nbd_statistics *last);
void mc_nbd_statistics(const struct mc_nbd *nbd, struct mc_nbd_statistics *out);
/* cdef-end */

#endif
