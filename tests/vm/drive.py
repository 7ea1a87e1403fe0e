#!/usr/bin/env python3
"""Boots machines, does what the cases inside ask for (pause, power button), and judges. See tests/vm/run."""

import argparse
import json
import os
import platform
import queue
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

INSIDE = ["groups", "reload", "stop", "oom", "bomb", "orphans", "pause"]
# Cases of their own machine, which ends with them.
ENDS = ["sigterm", "sigint"]
PATIENCE = 240


class Machine:
    """One virtual machine, its console and its monitor."""

    def __init__(self, options, accelerator, cases):
        self.folder = tempfile.TemporaryDirectory()
        monitor = os.path.join(self.folder.name, "qmp")
        command = [
            "qemu-system-x86_64", "-accel", accelerator, "-cpu", "max", "-m", "512", "-smp", "2", "-no-reboot",
            "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
            "-qmp", f"unix:{monitor},server=on,wait=off",
            "-kernel", options.kernel, "-initrd", options.initramfs,
            "-append", f"console=ttyS0 quiet panic=-1 no_timer_check cases={','.join(cases)}",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.lines = queue.Queue()
        self.console = []
        threading.Thread(target=self._read, daemon=True).start()
        self.events = []
        self.monitor = self._connect(monitor)

    def _read(self):
        for line in self.process.stdout:
            text = line.decode(errors="replace").rstrip()
            self.console.append(text)
            self.lines.put(text)
        self.lines.put(None)

    def _connect(self, path):
        deadline = time.monotonic() + 30
        while True:
            try:
                link = socket.socket(socket.AF_UNIX)
                link.connect(path)
                break
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit("qemu did not start:\n" + "\n".join(self.console[-20:]))
                time.sleep(0.05)
        stream = link.makefile("rw")
        stream.readline()
        self.monitor = stream
        self.ask("qmp_capabilities")
        return stream

    def ask(self, verb):
        self.monitor.write(json.dumps({"execute": verb}) + "\n")
        self.monitor.flush()
        while True:
            answer = json.loads(self.monitor.readline())
            if "event" in answer:
                self.events.append(answer)
            else:
                return answer

    def line(self, deadline):
        """The next line of ours; None when the console has ended."""
        while True:
            text = self.lines.get(timeout=max(0.1, deadline - time.monotonic()))
            if text is None:
                return None
            found = re.search(r"@(ok|fail|host|log|done)\b ?(.*)", text)
            if found:
                return found.groups()

    def say(self, text):
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def wait_off(self, deadline):
        """Whether the machine switched itself off, by its own doing and without a panic."""
        code = self.process.wait(max(1, deadline - time.monotonic()))
        for answer in self.monitor:
            self.events.append(json.loads(answer))
        asked = [event for event in self.events if event.get("event") == "SHUTDOWN"]
        panic = [text for text in self.console if "panic" in text.lower()]
        off = bool(asked) and asked[-1]["data"].get("reason") == "guest-shutdown"
        return code == 0 and off and not panic

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def run_inside(machine, results):
    """Does what the cases ask for until they are done."""
    deadline = time.monotonic() + PATIENCE
    while True:
        said = machine.line(deadline)
        if said is None:
            results.append(("machine", "the machine went away"))
            return
        kind, text = said
        if kind == "ok":
            results.append((text, None))
        elif kind == "fail":
            results.append(tuple(text.split(": ", 1)))
        elif kind == "log":
            print("   ", text, file=sys.stderr)
        elif kind == "done":
            return
        elif text.startswith("pause"):
            machine.ask("stop")
            time.sleep(float(text.split()[1]))
            machine.ask("cont")
            machine.say(str(int(time.time())))


def boots(options, accelerator):
    """Whether a machine comes up with this accelerator."""
    try:
        machine = Machine(options, accelerator, ["none"])
    except (OSError, ValueError, SystemExit):
        return False
    try:
        return machine.line(time.monotonic() + 30) is not None
    except queue.Empty:
        return False
    finally:
        machine.kill()


def ending(options, accelerator, how, results):
    """Whether a machine switches itself off when its process 1 is asked to end."""
    machine = Machine(options, accelerator, [how])
    try:
        deadline = time.monotonic() + 90
        while True:
            said = machine.line(deadline)
            if said is None or said[0] == "done":
                break
        off = machine.wait_off(deadline)
        results.append((how, None if off else "the machine did not switch itself off: " + " | ".join(machine.console[-5:])))
    except (queue.Empty, subprocess.TimeoutExpired):
        results.append((how, "no end: " + " | ".join(machine.console[-5:])))
    finally:
        machine.kill()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--initramfs", required=True)
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    begun = time.monotonic()
    accelerator = "tcg"
    if os.access("/dev/kvm", os.R_OK | os.W_OK) and boots(options, "kvm"):
        accelerator = "kvm"
    inside = [case for case in INSIDE if case in options.cases or not options.cases]
    results = []
    if inside:
        machine = Machine(options, accelerator, inside)
        try:
            run_inside(machine, results)
        except queue.Empty:
            results.append(("machine", "nothing more came: " + " | ".join(machine.console[-5:])))
        finally:
            machine.kill()
    for how in ENDS:
        if how in options.cases or not options.cases:
            ending(options, accelerator, how, results)
    failed = [(case, why) for case, why in results if why]
    for case, why in results:
        print(f"{'FAILED' if why else 'ok':7}{case}{': ' + why if why else ''}")
    kernel = os.path.basename(options.kernel).removeprefix("vmlinuz-")
    summary = f"{len(results) - len(failed)} of {len(results)} in {time.monotonic() - begun:.0f} s, {accelerator}, Linux {kernel}, {platform.machine()}"
    print(summary)
    if not options.cases:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        with open("tests/vm/RESULT.txt", "w") as file:
            file.write(f"{time.strftime('%Y-%m-%d')}, {commit}: {summary}\n")
            for case, why in results:
                file.write(f"{'FAILED' if why else 'ok':7}{case}{': ' + why if why else ''}\n")
    sys.exit(1 if failed or not results else 0)


main()
