//! Where the runtime and state directories are.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Why a directory is not usable.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It could not be made or looked at.
    #[error("making the directory {}: {source}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is somebody else's, so that whoever it is could answer in our place.
    #[error("the directory {} belongs to uid {owner}, not to uid {uid}", .path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose.
        owner: u32,
        /// Ours.
        uid: u32,
    },
    /// Others may write into it.
    #[error("the directory {} can be written by others (mode {mode:03o})", .path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is a link or a file.
    #[error("{} is no directory", .0.display())]
    NoDirectory(PathBuf),
    /// The instance's name cannot be part of a path.
    #[error("`{0}` cannot be an instance's name: letters, digits, `_`, `.` and `-`, at most 64")]
    Instance(String),
}

impl DirectoryError {
    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Instance(_) => None,
            Self::Io { .. } | Self::Owner { .. } | Self::NoDirectory(_) => {
                Some("set SANDKEEP_RUNTIME_DIR to a directory of your own".to_owned())
            }
            Self::Mode { path, .. } => Some(format!("`chmod 700 {}`", path.display())),
        }
    }
}

/// The directories of one supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// `<runtime>`.
    pub runtime_root: PathBuf,
    /// `<runtime>/<instance>`: socket, lock.
    pub runtime: PathBuf,
    /// `<state>/<instance>`: unit logs, stat index, queues.
    pub state: PathBuf,
}

impl Paths {
    /// Finds them for this process's user and environment. Nothing is made.
    pub fn locate(instance: &str) -> Result<Self, DirectoryError> {
        Self::locate_with(instance, nix::unistd::geteuid().as_raw(), |name| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        })
    }

    fn locate_with(instance: &str, uid: u32, var: impl Fn(&str) -> Option<PathBuf>) -> Result<Self, DirectoryError> {
        if crate::unit::Name::new(instance).is_none() {
            return Err(DirectoryError::Instance(instance.to_owned()));
        }
        let root = uid == 0;
        let runtime_root = var("SANDKEEP_RUNTIME_DIR")
            .or_else(|| var("XDG_RUNTIME_DIR").map(|dir| dir.join("sandkeep")))
            .or_else(|| root.then(|| "/run/sandkeep".into()))
            .unwrap_or_else(|| format!("/tmp/sandkeep-{uid}").into());
        let state_root = var("SANDKEEP_STATE_DIR")
            .or_else(|| var("XDG_STATE_HOME").map(|dir| dir.join("sandkeep")))
            .or_else(|| root.then(|| "/var/lib/sandkeep".into()))
            .or_else(|| var("HOME").map(|home| home.join(".local/state/sandkeep")))
            .unwrap_or_else(|| runtime_root.join("state"));
        Ok(Self {
            runtime: runtime_root.join(instance),
            state: state_root.join(instance),
            runtime_root,
        })
    }

    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime.join("control.sock")
    }

    /// The file of the random bearer token.
    pub fn token_file(&self) -> PathBuf {
        self.runtime.join("token")
    }

    /// Makes the runtime directories, 0700, and refuses those that are not ours alone.
    pub fn make_runtime(&self) -> Result<(), DirectoryError> {
        make_private(&self.runtime_root)?;
        make_private(&self.runtime)
    }

    /// Makes the state directory, 0700.
    pub fn make_state(&self) -> Result<(), DirectoryError> {
        make_private(&self.state)
    }
}

fn make_private(path: &Path) -> Result<(), DirectoryError> {
    let io_error = |source| DirectoryError::Io {
        path: path.to_owned(),
        source,
    };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error)?;
    let found = std::fs::symlink_metadata(path).map_err(io_error)?;
    let uid = nix::unistd::geteuid().as_raw();
    let mode = found.mode() & 0o777;
    if !found.is_dir() {
        Err(DirectoryError::NoDirectory(path.to_owned()))
    } else if found.uid() != uid {
        Err(DirectoryError::Owner {
            path: path.to_owned(),
            owner: found.uid(),
            uid,
        })
    } else if mode & 0o022 != 0 {
        Err(DirectoryError::Mode {
            path: path.to_owned(),
            mode,
        })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn locate(uid: u32, vars: &[(&str, &str)]) -> Paths {
        let var = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        Paths::locate_with("default", uid, var).unwrap()
    }

    #[test]
    fn the_first_that_is_set_counts() {
        let paths = locate(0, &[]);
        assert_eq!(paths.control_socket(), Path::new("/run/sandkeep/default/control.sock"));
        assert_eq!(paths.state, Path::new("/var/lib/sandkeep/default"));
        let paths = locate(1000, &[("HOME", "/home/a")]);
        assert_eq!(paths.runtime, Path::new("/tmp/sandkeep-1000/default"));
        assert_eq!(paths.state, Path::new("/home/a/.local/state/sandkeep/default"));
        let paths = locate(0, &[("XDG_RUNTIME_DIR", "/run/user/0"), ("XDG_STATE_HOME", "/s")]);
        assert_eq!(paths.runtime, Path::new("/run/user/0/sandkeep/default"));
        assert_eq!(paths.state, Path::new("/s/sandkeep/default"));
        let paths = locate(
            0,
            &[
                ("XDG_RUNTIME_DIR", "/x"),
                ("SANDKEEP_RUNTIME_DIR", "/r"),
                ("SANDKEEP_STATE_DIR", "/d"),
            ],
        );
        assert_eq!((paths.runtime, paths.state), ("/r/default".into(), "/d/default".into()));
    }

    #[test]
    fn an_instance_is_no_path() {
        for name in ["", "../x", "a/b", ".."] {
            assert!(matches!(Paths::locate(name), Err(DirectoryError::Instance(_))), "{name}");
        }
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runtime");
        make_private(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = make_private(&path).unwrap_err();
        assert!(error.to_string().contains("can be written by others (mode 777)"), "{error}");
    }

    #[test]
    fn a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(matches!(make_private(&link), Err(DirectoryError::NoDirectory(_))));
    }
}
