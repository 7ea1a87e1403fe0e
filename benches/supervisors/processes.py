"""What runs: by descent, by pidfd, and what it has used. Linux, /proc."""

import ctypes
import mmap
import os
import resource
import select
import signal
import struct
import time

TICK = os.sysconf("SC_CLK_TCK")
SLOT = 64
PR_SET_CHILD_SUBREAPER = 36


def now():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def become_subreaper():
    """From here on, whatever is orphaned below us becomes our child: nothing that a supervisor starts is out of reach."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def allow_many_files():
    """A pidfd a process, and what is inherited by supervisors that hold two pipes a unit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Slots:
    """The file in which the workload notes when it started, and as which process."""

    def __init__(self, path, count):
        self.path, self.count = path, count
        with open(path, "wb") as file:
            file.truncate(count * SLOT)
        self.file = open(path, "r+b")
        self.map = mmap.mmap(self.file.fileno(), count * SLOT)

    def close(self):
        self.map.close()
        self.file.close()

    def read(self, index):
        """(started, pid, written)"""
        return struct.unpack_from("QQQ", self.map, index * SLOT)

    def go(self, index):
        """Lets a `lines` process begin; when that was."""
        at = now()
        struct.pack_into("Q", self.map, index * SLOT + 24, 1)
        return at

    def pids(self):
        return [pid for pid in (self.read(i)[1] for i in range(self.count)) if pid]

    def wait_all(self, limit):
        """Waits until everyone has started; the time of the last one."""
        end = time.monotonic() + limit
        index = 0
        while index < self.count:
            if self.read(index)[1]:
                index += 1
            elif time.monotonic() > end:
                raise TimeoutError(f"{self.path}: {self.count - len(self.pids())} of {self.count} units did not start within {limit} s")
            else:
                time.sleep(0.002)
        return max(self.read(i)[0] for i in range(self.count))

    def wait_other(self, index, pid, limit):
        """Waits for a process that is not `pid`; when it started, or None."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            started, other, _ = self.read(index)
            if other != pid:
                return started
            time.sleep(0.0003)
        return None


def stat(pid):
    """(state, parent, user ticks + system ticks), or None when it has gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1]), int(fields[11]) + int(fields[12])


def descendants(root):
    """All that live below `root`, itself left out, zombies too."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (known := stat(name)):
            children.setdefault(known[1], []).append(int(name))
    found, open_ends = [], [root]
    while open_ends:
        below = children.get(open_ends.pop(), [])
        found += below
        open_ends += below
    return found


def alive(pid):
    known = stat(pid)
    return known is not None and known[0] not in b"ZX"


def executable(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def pss_kb(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


class Use:
    """What processes have used up to a moment, thread by thread."""

    def __init__(self, pids):
        self.ticks = {pid: known[2] for pid in pids if (known := stat(pid))}
        self.threads = {}
        for pid in self.ticks:
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/schedstat") as file:
                        nanoseconds = int(file.read().split()[0])
                    with open(f"/proc/{pid}/task/{task}/status") as file:
                        switches = sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
                    self.threads[pid, task] = nanoseconds, switches
            except OSError:
                continue

    def since(self, before):
        """(CPU ticks, CPU ns, voluntary and involuntary context switches); a thread that ended meanwhile counts as one switch."""
        ticks = sum(now - before.ticks.get(pid, 0) for pid, now in self.ticks.items())
        nanoseconds = switches = 0
        for thread, (used, switched) in self.threads.items():
            old_used, old_switched = before.threads.get(thread, (0, 0))
            nanoseconds += used - old_used
            switches += switched - old_switched
        return ticks, nanoseconds, switches + len(before.threads.keys() - self.threads.keys())


class Ends:
    """Sees processes end through their pidfds, so that no recycled number is taken for one of them."""

    def __init__(self, pids):
        self.poll = select.epoll()
        self.open = {}
        for pid in pids:
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            self.open[fd] = pid
            self.poll.register(fd, select.EPOLLIN)

    def wait(self, limit):
        """When each ended, {pid: ns}; who is not in it still lives."""
        ended = {}
        until = time.monotonic() + limit
        while self.open and (rest := until - time.monotonic()) > 0:
            ready = self.poll.poll(rest, 4096)
            at = now()
            for fd, _ in ready:
                self.poll.unregister(fd)
                ended[self.open.pop(fd)] = at
                os.close(fd)
        return ended

    def close(self):
        for fd in self.open:
            os.close(fd)
        self.poll.close()


def reap():
    """Takes the exit statuses of the orphans that we adopted."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def sweep():
    """Ends everything below us, whatever it is."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        reap()
        left = descendants(os.getpid())
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)
    raise RuntimeError(f"still there after SIGKILL: {descendants(os.getpid())}")
