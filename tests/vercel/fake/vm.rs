//! A sandbox's machine: a mount and a process namespace whose root has the host's programs and a disk of its own.
//!
//! `/vercel`, `/home`, `/root`, `/tmp`, `/run`, `/etc` and `/shared` are the sandbox's; the rest is the host's, to read alone, and the
//! network is the host's too. When its first process ends, the kernel ends all the others: a machine that stops leaves nothing.

use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::Uid;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

/// Which of the two kinds of image a sandbox has.
#[derive(Clone, Debug)]
pub(crate) enum Generation {
    /// The default image and its kin: `/v3`.
    Image(String),
    /// An older runtime: `/v2`.
    Runtime(String),
}

impl Generation {
    pub(crate) fn user(&self) -> &'static str {
        match self {
            Self::Image(_) => "ubuntu",
            Self::Runtime(_) => "vercel-sandbox",
        }
    }

    pub(crate) fn home(&self) -> &'static str {
        match self {
            Self::Image(_) => "/vercel",
            Self::Runtime(_) => "/home/vercel-sandbox",
        }
    }

    /// Where commands run that name no directory, and where a repository is cloned to.
    pub(crate) fn cwd(&self) -> &'static str {
        match self {
            Self::Image(_) => "/vercel",
            Self::Runtime(_) => "/vercel/sandbox",
        }
    }
}

/// The sandbox user's id, in both generations.
pub(crate) const USER: u32 = 1000;

const BOOT: &str = r#"
set -e
root=$1 disk=$2 agent=$3
mount --make-rprivate /
mount -t tmpfs -o mode=755 sandbox "$root"
for entry in /*; do
    name=${entry#/}
    case " etc proc tmp run home root vercel shared " in *" $name "*) continue ;; esac
    if [ -L "$entry" ]; then cp -P "$entry" "$root/$name"
    elif [ -d "$entry" ]; then
        mkdir "$root/$name"; mount --rbind "$entry" "$root/$name"
        case $name in dev | sys) ;; *) mount -o remount,bind,ro "$root/$name" || true ;; esac
    fi
done
for name in etc tmp run home root vercel shared; do mkdir -p "$root/$name"; mount --bind "$disk/$name" "$root/$name"; done
mount --bind "$disk/var-tmp" "$root/var/tmp"
mkdir "$root/.etc"; mount --bind /etc "$root/.etc"; mount -o remount,bind,ro "$root/.etc" || true
mkdir "$root/proc"; mount -t proc proc "$root/proc"
touch "$root/.vm"; mount --bind "$agent" "$root/.vm"
exec chroot "$root" /.vm --init
"#;

/// Makes an empty disk for a generation.
pub(crate) async fn format(disk: &Path, generation: &Generation) {
    let script = r#"
set -e
disk=$1 user=$2 home=$3 cwd=$4 uid=$5
mkdir -p "$disk"
for name in tmp run home root vercel shared var-tmp; do mkdir -p "$disk/$name"; done
chmod 700 "$disk/root"
mkdir -p "$disk/etc"
cd /etc
find . -mindepth 1 -maxdepth 1 -type d -printf '/.etc/%P\0' | xargs -0 ln -sf -t "$disk/etc"
find . -mindepth 1 -maxdepth 1 ! -type d -print0 | xargs -0 cp -P --preserve=mode,ownership -t "$disk/etc" 2>/dev/null || true
chmod 1777 "$disk/tmp" "$disk/var-tmp"
chmod 755 "$disk/run"
mkdir -p "$disk$home" "$disk$cwd"
for file in passwd group shadow; do
    [ -f "$disk/etc/$file" ] || continue
    sed -i -E "/^$user:/d; /^[^:]*:[^:]*:$uid:/d" "$disk/etc/$file"
done
echo "$user:x:$uid:$uid::$home:/bin/bash" >> "$disk/etc/passwd"
echo "$user:x:$uid:" >> "$disk/etc/group"
chown "$uid:$uid" "$disk$home" "$disk$cwd" "$disk/vercel" 2>/dev/null || true
"#;
    let status = Command::new("sh")
        .args(["-c", script, "format"])
        .arg(disk)
        .args([generation.user(), generation.home(), generation.cwd()])
        .arg(USER.to_string())
        .status()
        .await;
    assert!(status.is_ok_and(|status| status.success()), "a disk at {}", disk.display());
}

/// Copies a disk to where there is none.
pub(crate) async fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to.parent().expect("below the fake's directory")).expect("writable");
    // Sockets and pipes are copied as such; a running process may take a file away meanwhile.
    let _ = Command::new("cp").arg("-a").args([from, to]).stderr(Stdio::null()).status().await;
}

/// A machine that runs.
#[derive(Debug)]
pub(crate) struct Vm {
    /// Its first process, seen from the host.
    pid: i32,
    alive: Mutex<Option<(Child, ChildStdin)>>,
}

impl Vm {
    pub(crate) async fn boot(disk: &Path, root: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(root)?;
        let mut unshare = Command::new("unshare");
        if !Uid::effective().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        let agent = std::env::current_exe()?;
        unshare.args(["--mount", "--pid", "--fork", "--kill-child=KILL", "sh", "-c", BOOT, "boot"]);
        unshare.arg(root).arg(disk).arg(agent);
        let mut child = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let stdin = child.stdin.take().expect("piped");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).await?;
        if line != "up\n" {
            return Err(std::io::Error::other(
                "the machine does not come up: namespaces are needed, see tests/vercel/README.md",
            ));
        }
        let unshare = i32::try_from(child.id().expect("it runs")).expect("a pid");
        let pid = child_of(unshare).ok_or_else(|| std::io::Error::other("its first process is not there"))?;
        Ok(Self {
            pid,
            alive: Mutex::new(Some((child, stdin))),
        })
    }

    /// Ends it and everything in it; returns when nothing is left.
    pub(crate) async fn off(&self) {
        let alive = self.alive.lock().unwrap().take();
        if let Some((mut child, stdin)) = alive {
            drop(stdin);
            let _ = child.wait().await;
        }
    }

    /// A command that runs in it, as the sandbox's user or as root. The environment is the caller's to set.
    pub(crate) fn command(&self, generation: &Generation, cwd: &str, sudo: bool) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--mount", "--pid", "--root"]);
        if !Uid::effective().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        let uid = if sudo || !Uid::effective().is_root() { 0 } else { USER };
        command.args(["--", "/.vm", "--exec", &uid.to_string(), cwd]);
        command.env_clear().env(
            "PATH",
            format!(
                "{}/.global/npm/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                generation.home()
            ),
        );
        command.env("HOME", if sudo { "/root" } else { generation.home() });
        command
            .env("USER", if sudo { "root" } else { generation.user() })
            .env("LANG", "C.UTF-8");
        command
    }
}

/// The only child of a process, waited for a moment.
pub(crate) fn child_of(parent: i32) -> Option<i32> {
    for _ in 0..200 {
        for entry in std::fs::read_dir("/proc").ok()?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
                continue;
            };
            let after = stat.rsplit(')').next().unwrap_or_default();
            if after.split_whitespace().nth(1).and_then(|ppid| ppid.parse().ok()) == Some(parent) {
                return Some(pid);
            }
        }
        if !Path::new(&format!("/proc/{parent}")).exists() {
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    None
}

/// The machine's first process: reaps all, and ends, with all others, when whoever made it closes its standard input.
pub(crate) fn init() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigIgn) }.expect("SIGCHLD can be ignored");
    println!("up");
    std::io::Write::flush(&mut std::io::stdout()).expect("it hears us");
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

/// Takes signals as they come: a shell starts what runs in the background with some of them ignored, and all its children inherit that.
pub(crate) fn forget_ignored() {
    for ignored in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTERM] {
        // SAFETY: the default disposition runs no code of ours.
        let _ = unsafe { nix::sys::signal::signal(ignored, SigHandler::SigDfl) };
    }
}

/// Becomes a command: `UID CWD PROGRAM ARGUMENT…`, in a session of its own.
pub(crate) fn exec(arguments: &[String]) {
    let [uid, cwd, program, rest @ ..] = arguments else {
        std::process::exit(64)
    };
    let _ = nix::unistd::setsid();
    forget_ignored();
    let uid: u32 = uid.parse().expect("a user's id");
    let mut command = std::process::Command::new(program);
    command.args(rest).current_dir(cwd);
    if uid != 0 {
        nix::unistd::setgroups(&[]).expect("root may leave its groups");
        command.uid(uid).gid(uid);
    }
    let error = command.exec();
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{program}: {error}\n").as_bytes());
    std::process::exit(if error.kind() == std::io::ErrorKind::PermissionDenied {
        126
    } else {
        127
    });
}
