/* Lets chosen calls on chosen files fail or take long, as network file systems do.
 * FAULT_CALL: open, pread or mmap; FAULT_ERRNO: what it fails with, 0 for a third of a second of delay; FAULT_FILE: part of a path. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int fault(const char *call, const char *path)
{
    const char *wanted = getenv("FAULT_CALL"), *file = getenv("FAULT_FILE"), *code = getenv("FAULT_ERRNO");
    if (!wanted || !file || !code || strcmp(call, wanted) || !strstr(path, file))
        return 0;
    if (atoi(code) == 0) {
        usleep(333000);
        return 0;
    }
    errno = atoi(code);
    return 1;
}

static int fault_on(const char *call, int fd)
{
    char link[64], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return readlink(link, path, sizeof path - 1) > 0 && fault(call, path);
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name);                                                 \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        int mode = flags & O_CREAT ? va_arg(rest, int) : 0;                                                            \
        va_end(rest);                                                                                                  \
        return fault("open", path) ? -1 : real(path, flags, mode);                                                     \
    }

#define PREAD(name, offset)                                                                                            \
    ssize_t name(int fd, void *to, size_t size, offset at)                                                             \
    {                                                                                                                  \
        ssize_t (*real)(int, void *, size_t, offset) = dlsym(RTLD_NEXT, #name);                                        \
        return fault_on("pread", fd) ? -1 : real(fd, to, size, at);                                                    \
    }

#define MMAP(name, offset)                                                                                             \
    void *name(void *to, size_t size, int rights, int flags, int fd, offset at)                                        \
    {                                                                                                                  \
        void *(*real)(void *, size_t, int, int, int, offset) = dlsym(RTLD_NEXT, #name);                                \
        return fd >= 0 && fault_on("mmap", fd) ? MAP_FAILED : real(to, size, rights, flags, fd, at);                   \
    }

OPEN(open)
OPEN(open64)
PREAD(pread, off_t)
PREAD(pread64, off64_t)
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)
