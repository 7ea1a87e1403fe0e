// What the supervisors are given to run, and what checks their logs.
//
//   workload svc SLOTS INDEX [READY_FD]     notes its start, says one line, ends with 0 on SIGTERM or SIGINT
//   workload lines SLOTS INDEX COUNT        told to go by its slot, writes COUNT numbered lines of 100 bytes
//                                          at full speed (0: for ever), then waits as svc
//   workload leave SHAPE SLOTS INDEX        wrapper, background, setsid or orphan: leaves a second process (INDEX + 1)
//   workload check COUNT FILE...            reads the files as one stream and says what is lost, repeated or out of order
//
// SLOTS is a file of 64-byte slots that everyone maps; the times in it are CLOCK_MONOTONIC in nanoseconds.
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 100, DIGITS = 12, BLOCK = 40 };

struct slot {
    volatile uint64_t started, pid, written, go, rest[4];
};

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct slot *slots(const char *path) {
    struct stat st;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        _exit(111);
    void *at = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        _exit(111);
    close(fd);
    return at;
}

static void end(int signal) {
    (void)signal;
    _exit(0);
}

static void end_when_asked(void) {
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

static void note(struct slot *slot) {
    slot->started = now();
    __sync_synchronize();
    slot->pid = (uint64_t)getpid();
}

static void serve(struct slot *slot, long index, int ready) {
    end_when_asked();
    note(slot);
    if (ready >= 0) {
        if (write(ready, "\n", 1) < 0)
            _exit(111);
        close(ready);
    }
    char said[64];
    int length = snprintf(said, sizeof said, "unit %ld runs as %d\n", index, (int)getpid());
    if (write(1, said, (size_t)length) < 0)
        _exit(111);
    for (;;)
        pause();
}

// "000000000042 ........\n": the number, then dots up to 100 bytes.
static void put(char *at, uint64_t number) {
    for (int i = DIGITS - 1; i >= 0; i--) {
        at[i] = (char)('0' + number % 10);
        number /= 10;
    }
}

static void blank(char *block, int lines) {
    memset(block, '.', (size_t)lines * LINE);
    for (int i = 0; i < lines; i++) {
        block[i * LINE + DIGITS] = ' ';
        block[i * LINE + LINE - 1] = '\n';
    }
}

static void all(const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t n = write(1, bytes, length);
        if (n < 0)
            _exit(111);
        bytes += n;
        length -= (size_t)n;
    }
}

static void flood(struct slot *slot, uint64_t count) {
    static char block[BLOCK * LINE];
    end_when_asked();
    blank(block, BLOCK);
    note(slot);
    while (!slot->go)
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    for (uint64_t next = 0; count == 0 || next < count;) {
        uint64_t lines = count != 0 && count - next < BLOCK ? count - next : BLOCK;
        for (uint64_t i = 0; i < lines; i++)
            put(block + i * LINE, next + i);
        all(block, lines * LINE);
        next += lines;
    }
    slot->written = now();
    for (;;)
        pause();
}

static int leave(const char *shape, struct slot *all_slots, long index) {
    int orphan = strcmp(shape, "orphan") == 0;
    pid_t child = fork();
    if (child == 0) {
        if (orphan && fork() != 0)
            _exit(0);
        if (orphan || strcmp(shape, "setsid") == 0)
            setsid();
        serve(&all_slots[index + 1], index + 1, -1);
    }
    if (orphan)
        waitpid(child, NULL, 0);
    if (strcmp(shape, "wrapper") == 0) {
        // As `sh -c 'server; :'` and npm do: waits, and passes no signal on.
        note(&all_slots[index]);
        return waitpid(child, NULL, 0) < 0;
    }
    serve(&all_slots[index], index, -1);
    return 0;
}

static int check(uint64_t count, char **files) {
    char want[LINE], got[LINE];
    uint64_t expected = 0, lost = 0, repeated = 0, garbled = 0, seen = 0;
    size_t have = 0;
    blank(want, 1);
    for (; *files; files++) {
        FILE *file = fopen(*files, "r");
        if (!file)
            return 111;
        setvbuf(file, NULL, _IOFBF, 1 << 20);
        // A line may go on in the next file: supervisord rotates in the middle of one.
        for (size_t n; (n = fread(got + have, 1, LINE - have, file)) > 0;) {
            if ((have += n) < LINE)
                continue;
            have = 0;
            seen++;
            put(want, expected);
            if (memcmp(want, got, LINE) == 0) {
                expected++;
                continue;
            }
            char digits[DIGITS + 1] = {0};
            memcpy(digits, got, DIGITS);
            char *stop;
            uint64_t number = strtoull(digits, &stop, 10);
            put(want, number);
            if (*stop || memcmp(want, got, LINE) != 0) {
                garbled++;
            } else if (number > expected) {
                lost += number - expected;
                expected = number + 1;
            } else {
                repeated++;
            }
        }
        fclose(file);
    }
    if (expected < count)
        lost += count - expected;
    printf("lines=%llu lost=%llu repeated_or_reordered=%llu garbled=%llu\n", (unsigned long long)seen, (unsigned long long)lost,
           (unsigned long long)repeated, (unsigned long long)garbled + (have != 0));
    return lost || repeated || garbled || have;
}

int main(int count, char **words) {
    if (count >= 4 && strcmp(words[1], "svc") == 0) {
        long index = atol(words[3]);
        serve(&slots(words[2])[index], index, count > 4 ? atoi(words[4]) : -1);
    }
    if (count == 5 && strcmp(words[1], "lines") == 0)
        flood(&slots(words[2])[atol(words[3])], strtoull(words[4], NULL, 10));
    if (count == 5 && strcmp(words[1], "leave") == 0)
        return leave(words[2], slots(words[3]), atol(words[4]));
    if (count >= 3 && strcmp(words[1], "check") == 0)
        return check(strtoull(words[2], NULL, 10), words + 3);
    fputs("usage: see the first lines of workload.c\n", stderr);
    return 2;
}
