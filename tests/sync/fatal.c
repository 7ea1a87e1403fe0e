/* Ends the process at the Nth step on sandkeep's own files: each write, flush, truncation and renaming of the intent log or the stat
   index is a step. FATAL_AT: which; FATAL_TORN: half of what was to be written is written first. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int steps;

static int is_ours(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    return name && (!strcmp(name, "/intents") || !strcmp(name, "/index.tmp"));
}

static int is_fatal(void) {
    const char *at = getenv("FATAL_AT");
    return at && atomic_fetch_add(&steps, 1) + 1 == atoi(at);
}

static void end(void) { kill(getpid(), SIGKILL); pause(); }

ssize_t write(int fd, const void *bytes, size_t length) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (is_ours(fd) && is_fatal()) {
        if (getenv("FATAL_TORN")) real(fd, bytes, length / 2);
        end();
    }
    return real(fd, bytes, length);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    if (is_ours(fd) && is_fatal()) end();
    return real(fd);
}

int ftruncate64(int fd, off_t length) {
    static int (*real)(int, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "ftruncate64");
    if (is_ours(fd) && is_fatal()) end();
    return real(fd, length);
}

int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    if (!real) real = dlsym(RTLD_NEXT, "rename");
    const char *name = strrchr(to, '/');
    if (name && !strcmp(name, "/index") && is_fatal()) end();
    return real(from, to);
}
