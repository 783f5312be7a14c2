/* connect.c: see connect.h. */
#include "connect.h"

#include "family.h"
#include "kernel.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#define FDS_MAX 8

static struct sockaddr_un address;

int mcp_connect_open(const char *path)
{
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path, length + 1);
    return 0;
}

static void bound(int fd)
{
    struct timeval most = {.tv_sec = (time_t)(MCP_CALL_NS / 1000000000ull)};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most);
}

int mcp_send_fds(int fd, const int *fds, int count)
{
    char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
    int row = 0;
    struct iovec part = {&row, sizeof row};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space,
                             .msg_controllen = CMSG_SPACE((size_t)count * sizeof(int))};
    memset(space, 0, sizeof space);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, (size_t)count * sizeof(int));
    bound(fd);
    return sendmsg(fd, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int mcp_receive_fds(int fd, int *row, int *fds, int count)
{
    char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
    struct iovec part = {row, sizeof *row};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space,
                             .msg_controllen = sizeof space};
    bound(fd);
    ssize_t got;
    do
        got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got != (ssize_t)sizeof *row)
        return got < 0 ? -errno : -ECONNRESET;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (!header || header->cmsg_len != CMSG_LEN((size_t)count * sizeof(int)))
        return -EUSERS;     /* refused: nothing was handed over */
    memcpy(fds, CMSG_DATA(header), (size_t)count * sizeof(int));
    return 0;
}

int mcp_connect(struct mcp_handed *handed)
{
    int fds[MCP_HANDED_FDS];
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    bound(fd);
    int status = connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
    if (status == 0)
        status = mcp_receive_fds(fd, &handed->row, fds, MCP_HANDED_FDS);
    if (status < 0) {
        mcp_syscall(SYS_close, fd, 0, 0, 0, 0, 0);
        return status;
    }
    handed->connection = fd;
    handed->family = fds[0];
    handed->ram = fds[1];
    handed->meta = fds[2];
    handed->bell = fds[3];
    handed->swap = fds[4];
    handed->device = fds[5];
    return 0;
}

int mcp_connect_enable(int connection, int uffd)
{
    int answer;
    int status = mcp_send_fds(connection, &uffd, 1);
    if (status < 0)
        return status;
    ssize_t got;
    do
        got = recv(connection, &answer, sizeof answer, 0);
    while (got < 0 && errno == EINTR);
    if (got != (ssize_t)sizeof answer)
        return got < 0 ? -errno : -ECONNRESET;
    return answer;
}
