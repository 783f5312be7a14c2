/* nbd_request.c: requests of a client that has a device. See nbd.h.
 *
 * A request is done in windows of MC_BLOCKS_WINDOW blocks, through the frames of the connection's
 * staging: the socket's bytes go into frames and out of frames without another copy. A write that
 * begins or ends within a block has that block read into a frame beside the window, and the bytes
 * around its own copied from there.
 */
#include "nbd_private.h"

#include "check.h"

#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#define REQUEST_MAGIC 0x25609513u
#define SIMPLE_MAGIC 0x67446698u
#define CHUNK_MAGIC 0x668e33efu
#define NAIL_BLOCKS 1           /* at the end of a staging, for a block that is written in part */
#define BYTE_OF(at) ((at) & (MC_FRAME_BYTES - 1))

enum command {
    READ = 0, WRITE = 1, DISCONNECT = 2, FLUSH = 3, TRIM = 4, CACHE = 5, WRITE_ZEROES = 6
};
enum command_flags { FUA = 1, NO_HOLE = 2 };
enum chunk_flags { CHUNK_DONE = 1 };
enum chunk_type { CHUNK_OFFSET_DATA = 1, CHUNK_ERROR = 0x8001 };

static uint8_t *frame_address(const struct mc_nbd *nbd, int64_t frame)
{
    return mc_blocks_guest(nbd->options.blocks)->ram + ((uint64_t)frame << MC_FRAME_SHIFT);
}

/* After a call that tmem did not answer in time, its frames are not the connection's any more: an
 * answer that comes late may write them. There is one spare staging, the last one, for that: while
 * tmem is late nothing else is asked of it. */
static void mind_late(struct mc_nbd *nbd, struct mc_nbd_connection *connection, uint64_t lates)
{
    if (mc_blocks_lates(nbd->options.blocks) == lates)
        return;
    uint32_t *spare = &nbd->stagings[nbd->options.connections];
    int64_t late = connection->staging;
    connection->staging = *spare;
    *spare = (uint32_t)late;
}

static int blocks_write(struct mc_nbd *nbd, struct mc_nbd_connection *connection, uint64_t first,
                        uint32_t count)
{
    uint64_t lates = mc_blocks_lates(nbd->options.blocks);
    int error = mc_blocks_write(nbd->options.blocks, first, count, (uint32_t)connection->staging);
    mind_late(nbd, connection, lates);
    return error;
}

static int blocks_read(struct mc_nbd *nbd, struct mc_nbd_connection *connection, uint64_t first,
                       uint32_t count, uint32_t place, struct iovec *parts, uint32_t *made)
{
    uint64_t lates = mc_blocks_lates(nbd->options.blocks);
    int error = mc_blocks_read(nbd->options.blocks, first, count,
                               (uint32_t)connection->staging + place, parts, made);
    mind_late(nbd, connection, lates);
    return error;
}

/* The end of a request without data, or of a simple read that failed before its data. */
static void reply(struct mc_nbd *nbd, struct mc_nbd_connection *connection)
{
    const struct mc_nbd_request *request = &connection->request;
    mc_nbd_count(&nbd->counted.requests, 1);
    mc_nbd_count(&nbd->counted.errors, request->error != 0);
    connection->is_ending |= request->error == ESHUTDOWN;
    connection->phase = MC_NBD_REQUEST;
    connection->have = 0;
    if (request->command == READ && connection->is_structured) {
        mc_nbd_put32(connection, CHUNK_MAGIC);
        mc_nbd_put16(connection, CHUNK_DONE);
        mc_nbd_put16(connection, request->error ? CHUNK_ERROR : 0);
        mc_nbd_put(connection, &request->handle, 8);
        mc_nbd_put32(connection, request->error ? 6 : 0);
        if (request->error) {
            mc_nbd_put32(connection, request->error);
            mc_nbd_put16(connection, 0);        /* no message */
        }
    } else {
        mc_nbd_put32(connection, SIMPLE_MAGIC);
        mc_nbd_put32(connection, request->error);
        mc_nbd_put(connection, &request->handle, 8);
    }
    mc_nbd_answer(connection, 0);
}

static void fail(struct mc_nbd_connection *connection, int error)
{
    if (connection->request.error == 0)
        connection->request.error = (uint32_t)error;
}

/* The blocks in which [at, end) of the request begins, at most `most`; *bytes of it lie there. */
static uint32_t window(const struct mc_nbd_request *request, uint32_t most, uint64_t *bytes)
{
    uint64_t skip = BYTE_OF(request->at), left = request->end - request->at;
    uint64_t blocks = (skip + left + MC_FRAME_BYTES - 1) >> MC_FRAME_SHIFT;
    blocks = blocks < most ? blocks : most;
    *bytes = (blocks << MC_FRAME_SHIFT) - skip;
    *bytes = *bytes < left ? *bytes : left;
    return (uint32_t)blocks;
}

static void head_of_data(struct mc_nbd_connection *connection, uint64_t bytes, int is_last)
{
    const struct mc_nbd_request *request = &connection->request;
    if (connection->is_structured) {
        mc_nbd_put32(connection, CHUNK_MAGIC);
        mc_nbd_put16(connection, is_last ? CHUNK_DONE : 0);
        mc_nbd_put16(connection, CHUNK_OFFSET_DATA);
        mc_nbd_put(connection, &request->handle, 8);
        mc_nbd_put32(connection, (uint32_t)bytes + 8);
        mc_nbd_put64(connection, request->at);
    } else if (!request->is_begun) {
        mc_nbd_put32(connection, SIMPLE_MAGIC);
        mc_nbd_put32(connection, 0);
        mc_nbd_put(connection, &request->handle, 8);
    }
}

static enum mc_nbd_step step_read(struct mc_nbd *nbd, struct mc_nbd_connection *connection)
{
    struct mc_nbd_request *request = &connection->request;
    uint64_t bytes, skip = BYTE_OF(request->at);
    uint32_t made, count = window(request, MC_BLOCKS_WINDOW, &bytes);
    struct iovec *parts = connection->parts + 1;
    int error = blocks_read(nbd, connection, request->at >> MC_FRAME_SHIFT, count, 0, parts, &made);
    if (error != 0) {
        if (request->is_begun && !connection->is_structured)
            return MC_NBD_ENDS;     /* a simple reply cannot take back that it went well */
        fail(connection, error);
        reply(nbd, connection);
        return MC_NBD_WENT_ON;
    }
    uint64_t beyond = ((uint64_t)count << MC_FRAME_SHIFT) - skip - bytes;
    parts[0].iov_base = (uint8_t *)parts[0].iov_base + skip;
    parts[0].iov_len -= skip;
    parts[made - 1].iov_len -= beyond;
    int is_last = request->at + bytes == request->end;
    head_of_data(connection, bytes, is_last);
    request->is_begun = 1;
    request->at += bytes;
    mc_nbd_answer(connection, made);
    if (is_last) {
        mc_nbd_count(&nbd->counted.requests, 1);
        connection->phase = MC_NBD_REQUEST;
        connection->have = 0;
    }
    return MC_NBD_WENT_ON;
}

/* Copy within this process; 0, or ESHUTDOWN where a part cannot be touched, which would end the
 * process if it were. */
static int copy_guarded(void *to, const void *from, uint64_t bytes)
{
    struct iovec local = {.iov_base = to, .iov_len = bytes};
    struct iovec remote = {.iov_base = (void *)(uintptr_t)from, .iov_len = bytes};
    if (bytes == 0)
        return 0;
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)bytes ? 0 : ESHUTDOWN;
}

/* In the frame at `place` of the window stand bytes [begin, end) of a block that are to be written;
 * put around them what the block holds. */
static int fill_around(struct mc_nbd *nbd, struct mc_nbd_connection *connection, uint64_t block,
                       uint32_t place, uint64_t begin, uint64_t end)
{
    struct iovec old;
    uint32_t made;
    int64_t staging = connection->staging;
    int error = blocks_read(nbd, connection, block, 1, MC_BLOCKS_WINDOW - NAIL_BLOCKS, &old, &made);
    if (error != 0)
        return error;
    MC_CHECK(staging == connection->staging, "read of block %lu was late", block);
    uint8_t *page = frame_address(nbd, staging + place);
    const uint8_t *from = old.iov_base;
    error = copy_guarded(page, from, begin);
    return error ? error : copy_guarded(page + end, from + end, MC_FRAME_BYTES - end);
}

/* A window of a write has come. */
static int write_window(struct mc_nbd *nbd, struct mc_nbd_connection *connection, uint32_t count,
                        uint64_t bytes)
{
    const struct mc_nbd_request *request = &connection->request;
    uint64_t first = request->at >> MC_FRAME_SHIFT, skip = BYTE_OF(request->at);
    uint64_t last_end = skip + bytes - ((uint64_t)(count - 1) << MC_FRAME_SHIFT);
    int error = 0;
    if (skip > 0)
        error = fill_around(nbd, connection, first, 0, skip,
                            count == 1 ? last_end : MC_FRAME_BYTES);
    if (error == 0 && last_end < MC_FRAME_BYTES && (skip == 0 || count > 1))
        error = fill_around(nbd, connection, first + count - 1, count - 1, 0, last_end);
    return error ? error : blocks_write(nbd, connection, first, count);
}

static uint32_t write_window_blocks(const struct mc_nbd_request *request)
{
    int is_whole = BYTE_OF(request->at) == 0 && BYTE_OF(request->end) == 0;
    return is_whole ? MC_BLOCKS_WINDOW : MC_BLOCKS_WINDOW - NAIL_BLOCKS;
}

static enum mc_nbd_step step_payload(struct mc_nbd *nbd, struct mc_nbd_connection *connection)
{
    struct mc_nbd_request *request = &connection->request;
    uint64_t bytes, skip = BYTE_OF(request->at);
    uint32_t count = window(request, write_window_blocks(request), &bytes);
    uint8_t *to = frame_address(nbd, connection->staging) + skip + connection->have;
    int64_t got = mc_nbd_receive(connection, to, bytes - connection->have);
    if (got <= 0)
        return got < 0 ? MC_NBD_ENDS : MC_NBD_WAITS;
    connection->have += (uint32_t)got;
    if (connection->have < bytes)
        return MC_NBD_WENT_ON;
    connection->have = 0;
    if (!request->is_refused && request->error != ESHUTDOWN)
        fail(connection, write_window(nbd, connection, count, bytes));
    request->at += bytes;
    if (request->at == request->end)
        reply(nbd, connection);
    return MC_NBD_WENT_ON;
}

/* Zero bytes of one block; a trim leaves such a block as it is. */
static int clear_within(struct mc_nbd *nbd, struct mc_nbd_connection *connection, uint64_t at,
                        uint64_t bytes)
{
    const void *zeroes = mc_blocks_zeroes(nbd->options.blocks);
    uint64_t block = at >> MC_FRAME_SHIFT, begin = BYTE_OF(at);
    if (connection->request.command == TRIM)
        return 0;
    int error = fill_around(nbd, connection, block, 0, begin, begin + bytes);
    if (error == 0)
        error = copy_guarded(frame_address(nbd, connection->staging) + begin, zeroes, bytes);
    return error ? error : blocks_write(nbd, connection, block, 1);
}

static enum mc_nbd_step step_clear(struct mc_nbd *nbd, struct mc_nbd_connection *connection)
{
    struct mc_nbd_request *request = &connection->request;
    uint64_t bytes, blocks = (request->end - request->at) >> MC_FRAME_SHIFT, done;
    int error;
    if (BYTE_OF(request->at) != 0 || blocks == 0) {
        window(request, 1, &bytes);
        error = clear_within(nbd, connection, request->at, bytes);
        request->at += bytes;
    } else {
        error = mc_blocks_discard(nbd->options.blocks, request->at >> MC_FRAME_SHIFT, blocks,
                                  &done);
        request->at += done << MC_FRAME_SHIFT;
    }
    fail(connection, error);
    if (request->at == request->end || error != 0)
        reply(nbd, connection);
    return MC_NBD_WENT_ON;
}

/* The error for a request that is not to be begun, or 0. */
static uint32_t refusal(const struct mc_nbd *nbd, const struct mc_nbd_request *request,
                        uint64_t offset, uint32_t bytes)
{
    uint64_t size = mc_blocks_count(nbd->options.blocks) << MC_FRAME_SHIFT;
    const uint16_t allowed = request->command == WRITE_ZEROES ? FUA | NO_HOLE : FUA;
    if (request->flags & ~allowed || request->command > WRITE_ZEROES)
        return EINVAL;
    if (request->command == FLUSH)
        return bytes == 0 && offset == 0 ? 0 : EINVAL;
    if (offset > size || bytes > size - offset)
        return request->command == WRITE || request->command == WRITE_ZEROES ? ENOSPC : EINVAL;
    return request->command == READ && bytes > MC_NBD_BYTES ? EOVERFLOW : 0;
}

static enum mc_nbd_step step_request(struct mc_nbd *nbd, struct mc_nbd_connection *connection)
{
    const uint8_t *in = connection->in;
    struct mc_nbd_request *request = &connection->request;
    enum mc_nbd_step step = mc_nbd_fill(connection, MC_NBD_REQUEST_BYTES);
    if (step != MC_NBD_WENT_ON || connection->have < MC_NBD_REQUEST_BYTES)
        return step;
    uint64_t offset = mc_nbd_get64(in + 16);
    uint32_t bytes = mc_nbd_get32(in + 24);
    *request = (struct mc_nbd_request){.flags = (uint16_t)(in[4] << 8 | in[5]),
                                       .command = (uint16_t)(in[6] << 8 | in[7]),
                                       .at = offset, .end = offset + bytes};
    memcpy(&request->handle, in + 8, sizeof request->handle);
    if (mc_nbd_get32(in) != REQUEST_MAGIC || (request->command == WRITE && bytes > MC_NBD_BYTES))
        return mc_nbd_break_off(connection);
    if (request->command == DISCONNECT)
        return MC_NBD_ENDS;
    request->error = refusal(nbd, request, offset, bytes);
    connection->have = 0;
    if (request->error) {       /* the bytes of such a write are taken out of the way */
        request->is_refused = 1;
        request->at = 0;
        request->end = bytes;
    }
    if (bytes > 0 && request->command == WRITE)
        connection->phase = MC_NBD_PAYLOAD;
    else if (request->error || bytes == 0 || request->command == CACHE)
        reply(nbd, connection);
    else
        connection->phase = request->command == READ ? MC_NBD_READING : MC_NBD_CLEARING;
    return MC_NBD_WENT_ON;
}

enum mc_nbd_step mc_nbd_serve(struct mc_nbd *nbd, struct mc_nbd_connection *connection)
{
    switch (connection->phase) {
    case MC_NBD_PAYLOAD:
        return step_payload(nbd, connection);
    case MC_NBD_READING:
        return step_read(nbd, connection);
    case MC_NBD_CLEARING:
        return step_clear(nbd, connection);
    default:
        return step_request(nbd, connection);
    }
}
