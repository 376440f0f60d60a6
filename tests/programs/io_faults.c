/* LD_PRELOAD: what the environment asks for happens to files whose path contains IOFAULT_MATCH.
 *
 *   IOFAULT_WRITE=ERRNO   writes fail, after IOFAULT_AFTER of them on this process
 *   IOFAULT_SYNC=ERRNO    fsync fails
 *   IOFAULT_SPACE=ERRNO   there is no taking space for a file (posix_fallocate)
 *   IOFAULT_OPEN_US=N     each open takes so much longer, of a folder too
 *   IOFAULT_STAT_US=N     each stat takes so much longer
 *   IOFAULT_NO_KINDS=1    to list a folder does not tell what is a file, whatever the path
 *   IOFAULT_LOG=FOLDER    each write is a line in a file of the process there: path, offset, bytes
 *
 * Compiled by the fixture `preload`.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char ours[65536];
static long n_writes;

static long asked(const char *name) {
    const char *value = getenv(name);
    return value ? atol(value) : 0;
}

static int matches(const char *path) {
    const char *match = getenv("IOFAULT_MATCH");
    return match && path && strstr(path, match) != NULL;
}

static int opened(const char *path, int fd) {
    if (fd >= 0 && fd < (int)sizeof ours) ours[fd] = matches(path);
    if (matches(path) && asked("IOFAULT_OPEN_US")) usleep(asked("IOFAULT_OPEN_US"));
    return fd;
}

static ssize_t logged(int fd, long at, ssize_t n) {
    const char *folder = getenv("IOFAULT_LOG");
    if (!folder || n <= 0 || fd < 0 || fd >= (int)sizeof ours || !ours[fd]) return n;
    char name[4096], path[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    snprintf(name, sizeof name, "%s/%d", folder, (int)getpid());
    FILE *log = fopen(name, "a");
    if (log) { fprintf(log, "%s\t%ld\t%zd\n", path, at, n); fclose(log); }
    return n;
}

static int fails(int fd) {
    if (fd < 0 || fd >= (int)sizeof ours || !ours[fd] || !asked("IOFAULT_WRITE")) return 0;
    if (++n_writes <= asked("IOFAULT_AFTER")) return 0;
    errno = (int)asked("IOFAULT_WRITE");
    return 1;
}

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(name) int name(const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \
    REAL(int, #name, const char *, int, ...); \
    return opened(path, real(path, flags, mode)); }
OPEN(open)
OPEN(open64)

#define OPENAT(name) int name(int folder, const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \
    REAL(int, #name, int, const char *, int, ...); \
    return opened(path, real(folder, path, flags, mode)); }
OPENAT(openat)
OPENAT(openat64)

DIR *opendir(const char *path) {
    REAL(DIR *, "opendir", const char *);
    if (matches(path) && asked("IOFAULT_OPEN_US")) usleep(asked("IOFAULT_OPEN_US"));
    return real(path);
}

#define READDIR(name, entry_type) entry_type *name(DIR *folder) { \
    REAL(entry_type *, #name, DIR *); \
    entry_type *entry = real(folder); \
    if (entry && asked("IOFAULT_NO_KINDS")) entry->d_type = DT_UNKNOWN; \
    return entry; }
READDIR(readdir, struct dirent)
READDIR(readdir64, struct dirent64)

#define STAT(name, stat_type) int name(const char *path, stat_type *status) { \
    REAL(int, #name, const char *, stat_type *); \
    if (matches(path) && asked("IOFAULT_STAT_US")) usleep(asked("IOFAULT_STAT_US")); \
    return real(path, status); }
STAT(stat, struct stat)
STAT(stat64, struct stat64)
STAT(lstat, struct stat)
STAT(lstat64, struct stat64)

ssize_t write(int fd, const void *data, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    long at = lseek(fd, 0, SEEK_CUR);
    return fails(fd) ? -1 : logged(fd, at, real(fd, data, n));
}

#define PWRITE(name, offset_type) ssize_t name(int fd, const void *data, size_t n, offset_type at) { \
    REAL(ssize_t, #name, int, const void *, size_t, offset_type); \
    return fails(fd) ? -1 : logged(fd, at, real(fd, data, n, at)); }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define PWRITEV(name, offset_type) \
    ssize_t name(int fd, const struct iovec *parts, int n, offset_type at) { \
    REAL(ssize_t, #name, int, const struct iovec *, int, offset_type); \
    return fails(fd) ? -1 : logged(fd, at, real(fd, parts, n, at)); }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

#define PWRITEV2(name, offset_type) \
    ssize_t name(int fd, const struct iovec *parts, int n, offset_type at, int flags) { \
    REAL(ssize_t, #name, int, const struct iovec *, int, offset_type, int); \
    return fails(fd) ? -1 : logged(fd, at, real(fd, parts, n, at, flags)); }
PWRITEV2(pwritev2, off_t)
PWRITEV2(pwritev64v2, off64_t)

#define FALLOCATE(name, offset_type) int name(int fd, offset_type at, offset_type n) { \
    REAL(int, #name, int, offset_type, offset_type); \
    if (fd >= 0 && fd < (int)sizeof ours && ours[fd] && asked("IOFAULT_SPACE")) \
        return (int)asked("IOFAULT_SPACE"); \
    return real(fd, at, n); }
FALLOCATE(posix_fallocate, off_t)
FALLOCATE(posix_fallocate64, off64_t)

int fsync(int fd) {
    REAL(int, "fsync", int);
    if (fd >= 0 && fd < (int)sizeof ours && ours[fd] && asked("IOFAULT_SYNC")) {
        errno = (int)asked("IOFAULT_SYNC");
        return -1;
    }
    return real(fd);
}
