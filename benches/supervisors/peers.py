"""Who is compared: how each is installed, configured, started and stopped, and where its logs are.

Each is used as its own documentation says: s6 and runit with `run` scripts for /bin/sh and a logger a service, supervisord with a file a
program, pm2 with an ecosystem file. What limits its speed by design is set as fast as it goes: no restart delay, no start limit, s6 with
notification-fd (without it a service that ran for less than a second waits for one).
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import processes

PM2 = "pm2@7.0.4"
ROTATE_AT = 10_000_000
KEEP = 400


def install(repository):
    """s6 and runit from Debian's packages, supervisord unpacked (its package would start a service), pm2 from npm; where the last two are."""
    target = repository / "target/peers"
    if subprocess.run([".ci/install-debian", "benches/supervisors/requirements.apt"], cwd=repository).returncode:
        raise SystemExit("error: not all peers are installed")
    debs, root, pm2 = target / "debs", target / "root", target / "pm2"
    if not (root / "usr/bin/supervisord").exists():
        debs.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", "supervisor", "python3-pkg-resources"], check=True, cwd=debs, stderr=subprocess.DEVNULL)
        for deb in sorted(debs.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
    if not (pm2 / "node_modules/pm2/bin/pm2").exists():
        pm2.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--prefix", pm2, "--no-audit", "--no-fund", "--loglevel=error", PM2], check=True)
    return target


class Peer:
    """One supervisor with its units, in a directory of its own."""

    name = ""
    most = 1000
    ready_fd = None

    def __init__(self, target, scratch, slots):
        self.target, self.scratch, self.slots = target, scratch, slots
        self.root, self.asked = None, False
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("R2_", "AWS_", "SANDKEEP_", "SANDBOX_", "CONVEX_"))}

    def configure(self, commands):
        """Writes the configuration that runs these as units u0, u1, …"""
        raise NotImplementedError

    def start(self):
        """Starts the supervisor; does not wait for anything."""
        raise NotImplementedError

    def settle(self):
        """After the units run: until a command that started it has ended; finds the supervisor's process."""

    def ask_to_stop(self):
        os.kill(self.root, signal.SIGTERM)

    def logs(self, index):
        """The files of a unit's log, oldest first."""
        raise NotImplementedError

    def log_directory(self, index):
        return self.scratch / "log" / f"u{index}"

    def spawn(self, command, **more):
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": open(self.scratch / "stderr", "ab")}
        return subprocess.Popen([str(word) for word in command], env=self.environment, start_new_session=True, **(silent | more))

    def workloads(self):
        return set(self.slots.pids())

    def processes(self):
        """The supervisor's own processes, loggers too: all below it that are not the workload."""
        binary = str(self.slots.workload)
        return [pid for pid in [self.root, *processes.descendants(self.root)] if processes.alive(pid) and processes.executable(pid) != binary]


class Tools(Peer):
    """s6 and runit."""

    loggers = True

    def script(self, path, command):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\nexec {shlex.join(map(str, command))}\n")
        path.chmod(0o755)

    def configure(self, commands):
        for index, command in enumerate(commands):
            service = self.scratch / "services" / f"u{index}"
            self.script(service / "run", command)
            self.extra(service)
            if self.loggers:
                self.log_directory(index).mkdir(parents=True)
                self.script(service / "log/run", self.logger(index))

    def extra(self, service):
        pass

    def logs(self, index):
        directory = self.log_directory(index)
        return sorted(directory.glob("@*")) + [directory / "current"]


class S6(Tools):
    name = "s6"
    ready_fd = 3

    def extra(self, service):
        (service / "notification-fd").write_text("3\n")

    def logger(self, index):
        return ["s6-log", f"n{KEEP}", f"s{ROTATE_AT}", self.log_directory(index)]

    def start(self):
        self.root = self.spawn(["s6-svscan", "-c", "4000", self.scratch / "services"]).pid


class S6Bare(S6):
    """Without loggers, as in the reference numbers: the units write to /dev/null."""

    name = "s6-nolog"
    loggers = False


class Runit(Tools):
    name = "runit"

    def logger(self, index):
        (self.log_directory(index) / "config").write_text(f"s{ROTATE_AT}\nn0\n")
        return ["svlogd", self.log_directory(index)]

    def start(self):
        self.root = self.spawn(["runsvdir", "-P", self.scratch / "services"]).pid

    def ask_to_stop(self):
        os.kill(self.root, signal.SIGHUP)


class Supervisord(Peer):
    name = "supervisord"

    def configure(self, commands):
        base = self.scratch
        parts = [
            f"[supervisord]\nnodaemon=true\nlogfile={base}/supervisord.log\npidfile={base}/pid\nminfds=16384\nchildlogdir={base}\n"
            + ("user=root\n" if os.geteuid() == 0 else ""),
            f"[unix_http_server]\nfile={base}/sock\n",
            "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n",
            f"[supervisorctl]\nserverurl=unix://{base}/sock\n",
        ]
        for index, command in enumerate(commands):
            self.log_directory(index).mkdir(parents=True)
            parts.append(
                f"[program:u{index}]\ncommand={shlex.join(map(str, command))}\nautostart=true\nautorestart=true\nstartsecs=0\n"
                f"redirect_stderr=true\nstdout_logfile={self.log_directory(index)}/out\n"
                f"stdout_logfile_maxbytes={ROTATE_AT}\nstdout_logfile_backups={KEEP}\n"
            )
        (base / "supervisord.conf").write_text("\n".join(parts))

    def start(self):
        package = self.target / "root/usr/lib/python3/dist-packages"
        self.environment["PYTHONPATH"] = str(package)
        program = self.target / "root/usr/bin/supervisord"
        self.root = self.spawn(["/usr/bin/python3", program, "-c", self.scratch / "supervisord.conf"]).pid

    def logs(self, index):
        directory = self.log_directory(index)
        older = sorted(directory.glob("out.*"), key=lambda path: -int(path.suffix[1:]))
        return [*older, directory / "out"]


class Pm2(Peer):
    name = "pm2"
    most = 100

    def __init__(self, *rest):
        super().__init__(*rest)
        self.environment["PM2_HOME"] = str(self.scratch / "home")
        self.program = self.target / "pm2/node_modules/pm2/bin/pm2"
        self.command = None

    def configure(self, commands):
        apps = []
        for index, command in enumerate(commands):
            self.log_directory(index).mkdir(parents=True)
            file = str(self.log_directory(index) / "out")
            first, *rest = map(str, command)
            apps.append(
                {"name": f"u{index}", "script": first, "args": rest, "interpreter": "none", "exec_mode": "fork", "autorestart": True,
                 "restart_delay": 0, "min_uptime": 0, "max_restarts": 1_000_000, "merge_logs": True, "out_file": file, "error_file": file}
            )  # fmt: skip
        (self.scratch / "ecosystem.config.json").write_text(json.dumps({"apps": apps}))

    def start(self):
        self.command = self.spawn(["node", self.program, "start", self.scratch / "ecosystem.config.json"])

    def settle(self):
        self.command.wait(120)
        self.root = int((self.scratch / "home/pm2.pid").read_text())

    def ask_to_stop(self):
        self.command = self.spawn(["node", self.program, "kill"])

    def logs(self, index):
        return [self.log_directory(index) / "out"]


class Sandkeep(Peer):
    name = "sandkeep"
    binary = None
    shell = False
    keep = KEEP

    def __init__(self, *rest):
        super().__init__(*rest)
        self.state = self.scratch / "state"
        self.environment |= {"SANDKEEP_RUNTIME_DIR": str(self.scratch / "run"), "SANDKEEP_STATE_DIR": str(self.state)}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = None

    def configure(self, commands):
        parts = [f'[health]\nlisten = "127.0.0.1:{self.port}"\n\n[journal]\nmax_size = "{ROTATE_AT}B"\nkeep = {self.keep}\n']
        for index, command in enumerate(commands):
            words = [str(word) for word in command]
            parts.append(
                f"[unit.u{index}]\nexec = {json.dumps(shlex.join(words) if self.shell else words)}\n"
                'restart = "always"\nrestart_delay = "0s"\nrestart_steps = 0\nstart_limit_burst = 0\n'
            )
        (self.scratch / "sandkeep.toml").write_text("\n".join(parts))

    def start(self):
        self.command = self.spawn([self.binary, "up", "-c", self.scratch / "sandkeep.toml", "--detach", "--wait", "120s"])

    def settle(self):
        if self.command.wait(130) != 0:
            raise RuntimeError(f"sandkeep up: {(self.scratch / 'stderr').read_text()}")
        status = subprocess.run([self.binary, "status", "--json"], env=self.environment, check=True, capture_output=True, text=True)
        self.root = json.loads(status.stdout)["pid"]

    def logs(self, index):
        [directory] = {path.parent for path in self.state.rglob(f"u{index}.log")}
        older = sorted(directory.glob(f"u{index}.log.*"), key=lambda path: int(path.suffix[1:]))
        return [*older, directory / f"u{index}.log"]


class SandkeepShell(Sandkeep):
    """The same, each unit through `/bin/sh -c` as the peers' run scripts are."""

    name = "sandkeep-sh"
    shell = True


ALL = [Sandkeep, SandkeepShell, S6, S6Bare, Runit, Supervisord, Pm2]


def remove(directory):
    for _ in range(5):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.1)
