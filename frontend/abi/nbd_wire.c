/* nbd_wire.c: bytes from and to a client, never waiting for it. See nbd_private.h. */
#include "nbd_private.h"

#include "check.h"

#include <errno.h>
#include <sys/socket.h>

#define TRIES 8     /* of a call that signals interrupt, before the connection waits */

void mc_nbd_put(struct mc_nbd_connection *connection, const void *bytes, uint32_t count)
{
    MC_CHECK(count <= MC_NBD_HEAD_BYTES - connection->head_bytes, "%u bytes behind %u", count,
             connection->head_bytes);
    memcpy(connection->head + connection->head_bytes, bytes, count);
    connection->head_bytes += count;
}

void mc_nbd_put16(struct mc_nbd_connection *connection, uint16_t value)
{
    value = htobe16(value);
    mc_nbd_put(connection, &value, sizeof value);
}

void mc_nbd_put32(struct mc_nbd_connection *connection, uint32_t value)
{
    value = htobe32(value);
    mc_nbd_put(connection, &value, sizeof value);
}

void mc_nbd_put64(struct mc_nbd_connection *connection, uint64_t value)
{
    value = htobe64(value);
    mc_nbd_put(connection, &value, sizeof value);
}

void mc_nbd_answer(struct mc_nbd_connection *connection, uint32_t parts)
{
    MC_CHECK(connection->parts_at == connection->parts_count, "part %u of %u is to be sent",
             connection->parts_at, connection->parts_count);
    connection->parts[0] = (struct iovec){.iov_base = connection->head,
                                          .iov_len = connection->head_bytes};
    connection->parts_at = connection->head_bytes == 0;
    connection->parts_count = 1 + parts;
    connection->head_bytes = 0;
}

enum mc_nbd_step mc_nbd_send(struct mc_nbd_connection *connection)
{
    struct iovec *parts = connection->parts;
    struct msghdr message = {.msg_iov = parts + connection->parts_at,
                             .msg_iovlen = connection->parts_count - connection->parts_at};
    int64_t sent = -1;
    for (int i = 0; i < TRIES && sent < 0; i++) {
        sent = sendmsg(connection->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            return errno == EAGAIN || errno == ENOBUFS ? MC_NBD_WAITS : MC_NBD_ENDS;
    }
    if (sent < 0)
        return MC_NBD_WAITS;
    while (sent > 0 || (connection->parts_at < connection->parts_count &&
                        parts[connection->parts_at].iov_len == 0)) {
        struct iovec *part = &parts[connection->parts_at];
        uint64_t gone = (uint64_t)sent < part->iov_len ? (uint64_t)sent : part->iov_len;
        part->iov_base = (uint8_t *)part->iov_base + gone;
        part->iov_len -= gone;
        sent -= (int64_t)gone;
        connection->parts_at += part->iov_len == 0;
    }
    return MC_NBD_WENT_ON;
}

int64_t mc_nbd_receive(struct mc_nbd_connection *connection, void *to, uint64_t most)
{
    for (int i = 0; i < TRIES; i++) {
        int64_t got = recv(connection->fd, to, most, MSG_DONTWAIT);
        if (got > 0)
            return got;
        if (got == 0 || (errno != EINTR && errno != EAGAIN))
            return -1;
        if (errno == EAGAIN)
            break;
    }
    return 0;
}

enum mc_nbd_step mc_nbd_fill(struct mc_nbd_connection *connection, uint32_t wanted)
{
    MC_CHECK(wanted <= sizeof connection->in, "%u bytes are wanted", wanted);
    if (connection->have >= wanted)
        return MC_NBD_WENT_ON;
    int64_t got = mc_nbd_receive(connection, connection->in + connection->have,
                                 wanted - connection->have);
    if (got <= 0)
        return got < 0 ? MC_NBD_ENDS : MC_NBD_WAITS;
    connection->have += (uint32_t)got;
    return MC_NBD_WENT_ON;
}

enum mc_nbd_step mc_nbd_break_off(struct mc_nbd_connection *connection)
{
    connection->is_faulty = 1;
    return MC_NBD_ENDS;
}
