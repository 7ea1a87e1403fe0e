//! Where a supervisor keeps its sockets, its lock and its state: found by the daemon and by every client in the same way.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The longest path that a Unix socket can be bound to. unix(7).
const LONGEST_SOCKET_PATH: usize = 107;

/// The directories of one instance. Finding them touches nothing; `create` makes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// `<runtime>/<instance>`: sockets, lock, token, record of live runs. Gone after a reboot.
    pub runtime: PathBuf,
    /// `<state>/<instance>`: unit logs, content hashes, queues. Kept.
    pub state: PathBuf,
}

/// Why the directories of an instance cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The name cannot be part of a path.
    #[error("instance `{0}` is not a name: letters, digits, `_`, `.`, `-`, at most 64, the first a letter or a digit")]
    Instance(String),
    /// There is no place for state.
    #[error("finding the state directory: neither `SANDKEEP_STATE_DIR` nor `XDG_STATE_HOME` nor `HOME` is set")]
    NoHome,
    /// Making or looking at it failed.
    #[error("{act} `{}`: {why}", path.display())]
    Io {
        /// What was being done.
        act: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        why: io::Error,
    },
    /// It is not a directory, or a symbolic link to one.
    #[error("`{}` is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// It is somebody else's, who could read the sockets or put others there.
    #[error("directory `{}` belongs to uid {owner}, not to uid {me}", path.display())]
    NotOurs {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        me: u32,
    },
    /// A socket in it could not be bound.
    #[error("runtime directory `{}` is too long for a socket in it (at most {LONGEST_SOCKET_PATH} bytes)", .0.display())]
    TooLong(PathBuf),
    /// Another supervisor of this instance is alive.
    #[error("another supervisor runs (pid {0})")]
    Busy(i32),
}

impl PlaceError {
    /// What to do about it, where something is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotOurs { .. } | Self::TooLong(_) | Self::NotADirectory(_) => {
                Some("set SANDKEEP_RUNTIME_DIR to a directory of your own".to_owned())
            }
            Self::NoHome => Some("set SANDKEEP_STATE_DIR".to_owned()),
            Self::Busy(_) => {
                Some("`sandkeep status` shows it, `sandkeep down` stops it, `--instance NAME` runs another beside it".to_owned())
            }
            Self::Instance(_) | Self::Io { .. } => None,
        }
    }
}

impl Places {
    /// Finds the directories of an instance, as DESIGN section 4 orders them.
    pub fn of(instance: &str) -> Result<Self, PlaceError> {
        Self::find(instance, nix::unistd::geteuid().as_raw(), |name| {
            std::env::var_os(name).filter(|value| !value.is_empty())
        })
    }

    fn find(instance: &str, uid: u32, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, PlaceError> {
        if crate::unit::Name::new(instance).is_none() {
            return Err(PlaceError::Instance(instance.to_owned()));
        }
        let path = |name: &str| variable(name).map(PathBuf::from);
        let runtime = path("SANDKEEP_RUNTIME_DIR")
            .or_else(|| path("XDG_RUNTIME_DIR").map(|dir| dir.join("sandkeep")))
            .unwrap_or_else(|| {
                if uid == 0 {
                    "/run/sandkeep".into()
                } else {
                    format!("/tmp/sandkeep-{uid}").into()
                }
            });
        let state = path("SANDKEEP_STATE_DIR")
            .or_else(|| path("XDG_STATE_HOME").map(|dir| dir.join("sandkeep")))
            .or_else(|| (uid == 0).then(|| "/var/lib/sandkeep".into()))
            .or_else(|| path("HOME").map(|dir| dir.join(".local/state/sandkeep")))
            .ok_or(PlaceError::NoHome)?;
        Ok(Self {
            runtime: absolute(&runtime).join(instance),
            state: absolute(&state).join(instance),
        })
    }

    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime.join("control.sock")
    }

    /// The notify socket of units that run as the supervisor's own user.
    pub fn notify_socket(&self) -> PathBuf {
        self.runtime.join("notify.sock")
    }

    /// The bearer token, when a random one was made.
    pub fn token(&self) -> PathBuf {
        self.runtime.join("token")
    }

    /// The record of live runs.
    pub fn runs(&self) -> PathBuf {
        self.runtime.join("runs")
    }

    /// There while a supervisor runs, and after one that did not end in order: the next `up` resumes.
    pub fn running_file(&self) -> PathBuf {
        self.state.join("running")
    }

    /// The lock that a living supervisor holds.
    pub fn lock_file(&self) -> PathBuf {
        self.runtime.join("lock")
    }

    /// Makes both directories, readable to the owner alone, and refuses them when they are somebody else's.
    pub fn create(&self) -> Result<(), PlaceError> {
        if self.control_socket().as_os_str().len() > LONGEST_SOCKET_PATH {
            return Err(PlaceError::TooLong(self.runtime.clone()));
        }
        for path in [&self.runtime, &self.state] {
            if let Some(parent) = path.parent() {
                make(parent)?;
                check_owner(parent)?;
            }
            make(path)?;
            check_owner(path)?;
            // The group of the `auto` users, which a running supervisor lets pass, stays let.
            let passing = fs::metadata(path).map_or(0, |found| match found.gid() {
                super::auto_user::GROUP => found.mode() & 0o010,
                _ => 0,
            });
            fs::set_permissions(path, Permissions::from_mode(0o700 | passing)).map_err(|why| PlaceError::Io {
                act: "setting the mode of",
                path: path.clone(),
                why,
            })?;
        }
        Ok(())
    }

    /// Takes the lock of this instance and writes our pid into it. Kept for as long as the value lives.
    pub fn lock(&self) -> Result<Lock, PlaceError> {
        let path = self.lock_file();
        let failed = |act| {
            let path = path.clone();
            move |why| PlaceError::Io { act, path, why }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(failed("opening"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                return Err(PlaceError::Busy(text.trim().parse().unwrap_or(0)));
            }
            Err(TryLockError::Error(why)) => return Err(failed("locking")(why)),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(failed("writing"))?;
        Ok(Lock { file })
    }

    /// The pid of the supervisor that holds the lock; `None` when none does.
    pub fn locked_by(&self) -> Option<i32> {
        let mut file = File::open(self.lock_file()).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text).ok()?;
                text.trim().parse().ok()
            }
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }
}

/// Held by the one living supervisor of an instance.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// The locked file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The locked file, for handing it to a new image of the same process.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Takes over what an older image of this process held.
    pub fn from_file(file: File) -> Self {
        Self { file }
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

fn make(path: &Path) -> Result<(), PlaceError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|why| PlaceError::Io {
            act: "making directory",
            path: path.to_path_buf(),
            why,
        })
}

/// Ours, or root's (a shared parent such as `/tmp` with the sticky bit, or one that an administrator made for us).
fn check_owner(path: &Path) -> Result<(), PlaceError> {
    let me = nix::unistd::geteuid().as_raw();
    let seen = fs::symlink_metadata(path).map_err(|why| PlaceError::Io {
        act: "looking at",
        path: path.to_path_buf(),
        why,
    })?;
    let owner = seen.uid();
    if owner != me && owner != 0 {
        return Err(PlaceError::NotOurs {
            path: path.to_path_buf(),
            owner,
            me,
        });
    }
    let is_directory = seen.is_dir() || (owner == 0 && path.is_dir());
    if !is_directory {
        return Err(PlaceError::NotADirectory(path.to_path_buf()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(uid: u32, variables: &[(&str, &str)]) -> Places {
        Places::find("default", uid, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
        .expect("the variables suffice")
    }

    #[test]
    fn the_most_explicit_variable_wins() {
        let all = [
            ("SANDKEEP_RUNTIME_DIR", "/r"),
            ("XDG_RUNTIME_DIR", "/x"),
            ("SANDKEEP_STATE_DIR", "/s"),
            ("HOME", "/h"),
        ];
        assert_eq!(
            find(7, &all),
            Places {
                runtime: "/r/default".into(),
                state: "/s/default".into()
            }
        );
        assert_eq!(
            find(7, &[("XDG_RUNTIME_DIR", "/x"), ("XDG_STATE_HOME", "/xs"), ("HOME", "/h")]),
            Places {
                runtime: "/x/sandkeep/default".into(),
                state: "/xs/sandkeep/default".into()
            }
        );
        assert_eq!(
            find(7, &[("HOME", "/h")]),
            Places {
                runtime: "/tmp/sandkeep-7/default".into(),
                state: "/h/.local/state/sandkeep/default".into()
            }
        );
        assert_eq!(
            find(0, &[("HOME", "/root")]),
            Places {
                runtime: "/run/sandkeep/default".into(),
                state: "/var/lib/sandkeep/default".into()
            }
        );
    }

    #[test]
    fn an_instance_stays_below_the_directory() {
        for name in ["", "..", "a/b", "-x"] {
            assert!(matches!(Places::of(name), Err(PlaceError::Instance(_))), "{name}");
        }
    }

    #[test]
    fn only_one_holds_the_lock() {
        let base = tempfile::tempdir().unwrap();
        let places = Places {
            runtime: base.path().join("r/default"),
            state: base.path().join("s/default"),
        };
        places.create().unwrap();
        assert_eq!(places.locked_by(), None);
        let lock = places.lock().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(places.lock(), Err(PlaceError::Busy(pid)) if pid == me));
        assert_eq!(places.locked_by(), Some(me));
        drop(lock);
        places.lock().unwrap();
    }

    #[test]
    fn a_directory_of_ours_is_made_private_and_a_long_one_refused() {
        let base = tempfile::tempdir().unwrap();
        let places = Places {
            runtime: base.path().join("r/default"),
            state: base.path().join("s/default"),
        };
        fs::create_dir_all(&places.runtime).unwrap();
        fs::set_permissions(&places.runtime, Permissions::from_mode(0o755)).unwrap();
        places.create().unwrap();
        assert_eq!(fs::metadata(&places.runtime).unwrap().mode() & 0o777, 0o700);
        let long = Places {
            runtime: base.path().join("x".repeat(120)),
            state: places.state,
        };
        assert!(matches!(long.create(), Err(PlaceError::TooLong(_))));
    }
}
