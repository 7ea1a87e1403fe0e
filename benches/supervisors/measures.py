"""The workloads. Each runs on all peers in turn (or on all at once, one kill after the other), round by round, and notes every value."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import time

import peers
import processes

START_LIMIT = 120
# s6 and runit wait for a second before they start again what ran for less.
LONG_ENOUGH = 1_300_000_000
LEAVES = ["wrapper", "background", "setsid", "orphan"]


class Bench:
    """What all measures share: the sizes, the workload, the raw file."""

    def __init__(self, sizes, target, workload, scratch, chosen, record):
        self.sizes, self.target, self.workload, self.scratch = sizes, target, workload, scratch
        self.chosen, self.record = chosen, record
        self.runs = itertools.count()

    def peers(self, *names):
        """The chosen ones of these, or all but the variants."""
        return [peer for peer in self.chosen if (peer.name in names if names else "-" not in peer.name)]

    @contextlib.contextmanager
    def prepared(self, kind, slots, **settings):
        """A peer in a new directory; whatever it started is gone afterwards."""
        directory = self.scratch / f"{next(self.runs)}-{kind.name}"
        directory.mkdir()
        table = processes.Slots(directory / "slots", slots)
        table.workload = self.workload
        peer = kind(self.target, directory, table)
        for name, value in settings.items():
            setattr(peer, name, value)
        try:
            yield peer
        finally:
            if peer.root or peer.workloads():
                end(peer)
            table.close()
            peers.remove(directory)

    def service(self, peer, index):
        ready = [] if peer.ready_fd is None else [peer.ready_fd]
        return [self.workload, "svc", peer.slots.path, index, *ready]

    def up(self, peer, count):
        """Brings up so many units; how long it took, in ms, until the last one ran."""
        peer.configure([self.service(peer, index) for index in range(count)])
        return self.launch(peer)

    def launch(self, peer):
        began = processes.now()
        peer.start()
        last = peer.slots.wait_all(START_LIMIT)
        peer.settle()
        return (last - began) / 1e6


def end(peer):
    """Stops a peer, then kills what it has left."""
    try:
        pids = set(peer.processes()) | peer.workloads() if peer.root else peer.workloads()
        ends = processes.Ends(pids)
        if peer.root and processes.alive(peer.root):
            peer.ask_to_stop()
            ends.wait(1 if peer.asked else 20)
        ends.close()
        for pid in pids:
            if processes.alive(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    finally:
        processes.reap()


def stop(peer, limit=60):
    """Stops it: ms until the last unit had ended, and until all of its processes had."""
    units = peer.workloads()
    ends = processes.Ends(units | set(peer.processes()))
    began = processes.now()
    peer.asked = True
    peer.ask_to_stop()
    ended = ends.wait(limit)
    left = len(ends.open)
    ends.close()
    units_ms = max((at - began for pid, at in ended.items() if pid in units), default=0) / 1e6
    all_ms = max((at - began for at in ended.values()), default=0) / 1e6
    return units_ms, all_ms, left


def respawn(bench):
    """kill -9 of a unit until its next process runs: one kill a peer, then the next unit."""
    count = bench.sizes.kills_units
    with contextlib.ExitStack() as stack:
        running = []
        for kind in bench.peers("sandkeep", "sandkeep-sh", "s6", "runit", "supervisord", "pm2"):
            peer = stack.enter_context(bench.prepared(kind, count))
            bench.up(peer, count)
            running.append(peer)
        time.sleep(1.5)
        for kill in range(bench.sizes.kills):
            for turn in range(len(running)):
                peer = running[(turn + kill) % len(running)]
                # Its loop takes a second for each: a few say it.
                if peer.name == "supervisord" and kill >= bench.sizes.kills_slow:
                    continue
                unit = kill % count
                started, pid, _ = peer.slots.read(unit)
                time.sleep(max(0, started + LONG_ENOUGH - processes.now()) / 1e9)
                began = processes.now()
                os.kill(pid, signal.SIGKILL)
                again = peer.slots.wait_other(unit, pid, 20)
                bench.record("respawn", peer=peer.name, kill=kill, ms="none" if again is None else f"{(again - began) / 1e6:.3f}")
                time.sleep(0.01)


def fleet(bench):
    """So many units up, what the supervisor's processes take then (PSS), and a clean stop."""
    for count, rounds in bench.sizes.fleets:
        for turn in range(rounds):
            kinds = bench.peers("sandkeep", "s6", "s6-nolog", "runit", "supervisord", "pm2")
            for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
                if count > kind.most:
                    continue
                with bench.prepared(kind, count) as peer:
                    up_ms = bench.up(peer, count)
                    time.sleep(bench.sizes.settle)
                    own = peer.processes()
                    pss = sum(processes.pss_kb(pid) for pid in own)
                    units_ms, all_ms, left = stop(peer)
                    bench.record(
                        "fleet", units=count, round=turn, peer=peer.name, up_ms=f"{up_ms:.2f}", pss_kb=pss, processes=len(own),
                        stop_units_ms=f"{units_ms:.2f}", stop_all_ms=f"{all_ms:.2f}", left=left,
                    )  # fmt: skip


def idle(bench):
    """A minute in which nothing happens, for all at once."""
    count = bench.sizes.idle_units
    with contextlib.ExitStack() as stack:
        running = []
        for kind in bench.peers():
            peer = stack.enter_context(bench.prepared(kind, count))
            bench.up(peer, count)
            running.append((peer, peer.processes()))
        time.sleep(bench.sizes.idle_before)
        before = [processes.Use(own) for _, own in running]
        time.sleep(bench.sizes.idle)
        for (peer, own), earlier in zip(running, before):
            ticks, nanoseconds, switches = processes.Use(own).since(earlier)
            bench.record(
                "idle", seconds=bench.sizes.idle, units=count, peer=peer.name, ticks=ticks, cpu_ms=f"{nanoseconds / 1e6:.3f}",
                switches=switches, processes=len(own),
            )  # fmt: skip


def log(bench):
    """One unit writes numbered lines as fast as they are taken; all are kept and every one is checked."""
    lines = bench.sizes.log_mib * 1024 * 1024 // 100
    for turn in range(bench.sizes.log_rounds):
        kinds = bench.peers()
        for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
            with bench.prepared(kind, 1) as peer:
                peer.configure([[bench.workload, "lines", peer.slots.path, 0, lines]])
                bench.launch(peer)
                time.sleep(bench.sizes.settle)
                own = peer.processes()
                before = processes.Use(own)
                began = peer.slots.go(0)
                seconds = (wait_for_line(peer, lines - 1, 300) - began) / 1e9
                cpu = processes.Use(own).since(before)[1] / 1e9
                checked = subprocess.run([bench.workload, "check", str(lines), *peer.logs(0)], capture_output=True, text=True)
                bench.record(
                    "log", round=turn, peer=peer.name, mib=bench.sizes.log_mib, seconds=f"{seconds:.3f}",
                    mb_per_s=f"{lines * 100 / 1e6 / seconds:.1f}", cpu_s=f"{cpu:.3f}", files=len(peer.logs(0)),
                    check=checked.stdout.strip().replace(" ", ",") or f"failed({checked.returncode})",
                )  # fmt: skip


def wait_for_line(peer, number, limit):
    """When the line of this number is the last in the log."""
    want = b"%012d " % number
    until = time.monotonic() + limit
    while time.monotonic() < until:
        if peer.slots.read(0)[2]:
            with contextlib.suppress(OSError, ValueError), open(peer.logs(0)[-1], "rb") as file:
                file.seek(-100, os.SEEK_END)
                if file.read(13) == want:
                    return processes.now()
        time.sleep(0.002)
    raise TimeoutError(f"{peer.name}: the last line did not reach the log within {limit} s")


def leftovers(bench):
    """Four units that leave a process behind: a clean stop, then who still lives."""
    for kind in bench.peers():
        with bench.prepared(kind, 2 * len(LEAVES)) as peer:
            peer.configure([[bench.workload, "leave", shape, peer.slots.path, 2 * index] for index, shape in enumerate(LEAVES)])
            bench.launch(peer)
            time.sleep(bench.sizes.settle)
            pids = peer.slots.pids()
            ends = processes.Ends(pids)
            peer.asked = True
            peer.ask_to_stop()
            ended = ends.wait(bench.sizes.leftover_wait)
            ends.close()
            found = {shape: "clean" if {*pids[2 * i : 2 * i + 2]} <= ended.keys() else "left" for i, shape in enumerate(LEAVES)}
            bench.record("leftovers", peer=peer.name, waited_s=bench.sizes.leftover_wait, **found)


def readyz(bench):
    """What a probe of the health endpoint takes while four units write as fast as they can."""
    floods = 4
    for kind in bench.peers("sandkeep"):
        # Bounded: what four units write in this time would fill a tmpfs.
        with bench.prepared(kind, floods + 1, keep=2) as peer:
            commands = [[bench.workload, "lines", peer.slots.path, index, 0] for index in range(floods)]
            peer.configure([*commands, bench.service(peer, floods)])
            bench.launch(peer)
            for index in range(floods):
                peer.slots.go(index)
            time.sleep(bench.sizes.settle)
            before = processes.Use([peer.root])
            for turn in range(bench.sizes.asks):
                bench.record("readyz", ask=turn, ms=f"{ask(peer.port) / 1e6:.3f}")
                time.sleep(0.005)
            bench.record("readyz-load", cpu_s=f"{processes.Use([peer.root]).since(before)[1] / 1e9:.2f}")


def ask(port):
    """One GET /readyz over a connection of its own; ns."""
    began = processes.now()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    took = processes.now() - began
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"GET /readyz answered {answer[:200]!r}")
    return took


ALL = {"respawn": respawn, "fleet": fleet, "idle": idle, "log": log, "leftovers": leftovers, "readyz": readyz}
