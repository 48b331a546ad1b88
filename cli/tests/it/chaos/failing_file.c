/* Makes writes or syncs of the store's files fail, as a broken disk does, in a process that is started with LD_PRELOAD=this.
 *
 * The file that FAILING_FILE names holds the fault of the moment: "sync", "write", "space" or nothing. Each failure appends a byte to
 * the file of the same name with ".hits". Only files whose path contains "promptmill.db" are touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int fails(int fd, const char *fault) {
    int saved = errno, answer = 0;
    char control[4096], link[64], path[4096], word[16] = {0};
    const char *name = getenv("FAILING_FILE");
    if (!name) return 0;
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        ssize_t length = read(file, word, sizeof word - 1);
        close(file);
        if (length > 0 && !strcmp(word, fault)) {
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            length = readlink(link, path, sizeof path - 1);
            path[length > 0 ? length : 0] = 0;
            answer = strstr(path, "promptmill.db") != NULL;
        }
    }
    if (answer) {
        snprintf(control, sizeof control, "%s.hits", name);
        int hits = open(control, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (hits >= 0) {
            ssize_t (*plain)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
            if (plain(hits, "x", 1) < 0) { /* a hit more or less decides nothing */ }
            close(hits);
        }
    }
    errno = saved;
    return answer;
}

#define SYNC(NAME)                                                                 \
    int NAME(int fd) {                                                             \
        static int (*real)(int);                                                   \
        if (!real) real = dlsym(RTLD_NEXT, #NAME);                                 \
        if (fails(fd, "sync")) { errno = EIO; return -1; }                         \
        return real(fd);                                                           \
    }
SYNC(fsync)
SYNC(fdatasync)

#define PWRITE(NAME, OFFSET)                                                       \
    ssize_t NAME(int fd, const void *bytes, size_t length, OFFSET at) {            \
        static ssize_t (*real)(int, const void *, size_t, OFFSET);                 \
        if (!real) real = dlsym(RTLD_NEXT, #NAME);                                 \
        if (fails(fd, "write")) { errno = EIO; return -1; }                        \
        if (fails(fd, "space")) { errno = ENOSPC; return -1; }                     \
        return real(fd, bytes, length, at);                                        \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t write(int fd, const void *bytes, size_t length) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (fails(fd, "write")) { errno = EIO; return -1; }
    if (fails(fd, "space")) { errno = ENOSPC; return -1; }
    return real(fd, bytes, length);
}
