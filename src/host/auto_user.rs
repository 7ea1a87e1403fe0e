//! `user = "auto"`: an unprivileged user for each unit, without an account on the machine.
//!
//! - **uid**: from 61185 to 65519, the range that systemd and Debian keep free for users who are made on the fly. Which one is told by the
//!   unit's name, the next free one if another unit has it; the owner of the unit's home is the record of it, so it stays. No line in
//!   `/etc/passwd`: it would have to be taken out again, and an image may be read-only. Programs that ask for the account's name find none;
//!   `USER`, `LOGNAME`, `HOME` and `SHELL` are set.
//! - **home**: `<state>/home/<unit>`, 0700, kept.
//! - **the project's files** are shared by a group of its own (61184): every auto unit has it as its group and 002 as its umask, the root
//!   and all below it are given to it, and directories hand it on (setgid). Done when the first such unit starts and again after a restore,
//!   which brings files without it.
//! - **Git** refuses trees of other users, so the root is named to it as safe, for these units alone.
//! - **the control socket** lets the group in; what its processes may ask for is decided by whose they are, as always.

use super::account::Account;
use super::fault::StartFault;
use super::runtime_dir::Places;
use crate::unit::{Config, Main, Name, Unit, Worker};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};

/// What `user` says.
pub(super) const AUTO: &str = "auto";
/// The group of the project's files.
pub(super) const GROUP: u32 = 61184;
const FIRST: u32 = GROUP + 1;
const LAST: u32 = 65519;
/// Owner and group may do everything, others what they could; new files get the directory's group.
const SHARED_DIRECTORY: u32 = 0o2070;

/// The users that were made for units.
#[derive(Debug)]
pub(super) struct AutoUsers {
    places: Places,
    uids: BTreeMap<Name, u32>,
    /// Whether the project's files are the group's.
    shared: bool,
}

impl AutoUsers {
    /// None yet.
    pub(super) fn new(places: Places) -> Self {
        Self {
            places,
            uids: BTreeMap::new(),
            shared: false,
        }
    }

    /// Gives uids to the units that want them, always in the same order.
    pub(super) fn configure(&mut self, config: &Config) {
        for unit in config.units.iter().filter(|unit| wants_one(unit)) {
            if !self.uids.contains_key(&unit.name) {
                let uid = self.recorded(&unit.name).unwrap_or_else(|| self.free(&unit.name));
                self.uids.insert(unit.name.clone(), uid);
            }
        }
    }

    /// Which unit has which, for the next image of this process.
    pub(super) fn hand_over(&self) -> BTreeMap<Name, u32> {
        self.uids.clone()
    }

    /// Goes on with those of the image before this one: what runs as one of them may not be in the configuration any more, and no other
    /// unit may get it.
    pub(super) fn go_on_with(&mut self, uids: BTreeMap<Name, u32>) {
        self.uids.extend(uids);
    }

    /// Files came that are not the group's yet.
    pub(super) fn files_came(&mut self) {
        self.shared = false;
    }

    fn home(&self, unit: &Name) -> PathBuf {
        self.places.state.join("home").join(unit.as_str())
    }

    fn recorded(&self, unit: &Name) -> Option<u32> {
        let uid = fs::symlink_metadata(self.home(unit)).ok()?.uid();
        (FIRST..=LAST).contains(&uid).then_some(uid).filter(|uid| self.is_free(*uid))
    }

    fn is_free(&self, uid: u32) -> bool {
        let has_account = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).is_ok_and(|user| user.is_some());
        !has_account && self.uids.values().all(|taken| *taken != uid)
    }

    fn free(&self, unit: &Name) -> u32 {
        let count = LAST - FIRST + 1;
        // FNV-1a: the same in every build and on every machine.
        let hash = unit
            .as_str()
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let candidates = (0..count).map(|n| FIRST + (hash % count + n) % count);
        candidates.clone().find(|uid| self.is_free(*uid)).unwrap_or(FIRST)
    }

    /// The user of a unit, with everything in place that it needs. Only root can.
    pub(super) fn prepare(&mut self, unit: &Unit, root: &Path) -> Result<Account, StartFault> {
        let uid = match self.uids.get(&unit.name) {
            Some(uid) => *uid,
            None => self.free(&unit.name),
        };
        self.uids.insert(unit.name.clone(), uid);
        let home = self.home(&unit.name);
        let failed = |act: &str, path: &Path, why: &io::Error| StartFault::new(format!("making its user: {act} `{}`", path.display()), why);
        self.open_the_way().map_err(|why| failed("sharing", &self.places.state, &why))?;
        own_directory(&home, uid).map_err(|why| failed("making", &home, &why))?;
        if unit.main == Main::Worker(Worker::Agent) {
            for name in ["agent", "transcripts"] {
                let path = self.places.state.join(name);
                own_directory(&path, uid).map_err(|why| failed("making", &path, &why))?;
            }
        }
        if !self.shared {
            share(root).map_err(|why| failed("sharing", root, &why))?;
            self.shared = true;
        }
        Ok(Account::made(unit, uid, GROUP, home))
    }

    /// Lets the group pass through our directories, and knock at the control socket.
    fn open_the_way(&self) -> io::Result<()> {
        let home = self.places.state.join("home");
        if !home.is_dir() {
            fs::DirBuilder::new().mode(0o711).create(&home)?;
        }
        for path in [&self.places.runtime, &self.places.state] {
            for directory in path.parent().into_iter().chain([path.as_path()]) {
                let mode = fs::metadata(directory)?.permissions().mode();
                if mode & 0o001 == 0 {
                    chown(directory, None, Some(GROUP))?;
                    fs::set_permissions(directory, Permissions::from_mode(mode & 0o7777 | 0o010))?;
                }
            }
        }
        let socket = self.places.control_socket();
        match fs::symlink_metadata(&socket) {
            Ok(found) if found.gid() != GROUP => {
                lchown(&socket, None, Some(GROUP))?;
                fs::set_permissions(&socket, Permissions::from_mode(0o660))
            }
            Ok(_) => Ok(()),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(why) => Err(why),
        }
    }
}

/// Whether a unit is to have a user of its own.
pub(super) fn wants_one(unit: &Unit) -> bool {
    unit.user.as_deref() == Some(AUTO)
}

/// A directory of this user alone, and what is in it too, should it have been another's.
fn own_directory(path: &Path, uid: u32) -> io::Result<()> {
    if !path.is_dir() {
        fs::DirBuilder::new().mode(0o700).create(path)?;
    }
    if fs::symlink_metadata(path)?.uid() != uid {
        each(path, &mut |path, _| lchown(path, Some(uid), Some(GROUP)))?;
    }
    Ok(())
}

/// Gives a tree to the group: what its owner may, the group may.
fn share(root: &Path) -> io::Result<()> {
    each(root, &mut |path, found| {
        if found.gid() != GROUP {
            lchown(path, None, Some(GROUP))?;
        }
        if found.file_type().is_symlink() {
            return Ok(());
        }
        let mode = found.permissions().mode() & 0o7777;
        let wanted = if found.is_dir() {
            mode | SHARED_DIRECTORY
        } else {
            mode | (mode & 0o700) >> 3
        };
        // Changing the group takes setuid and setgid bits away: they are not given back to files.
        if wanted != mode || found.gid() != GROUP && found.is_dir() {
            fs::set_permissions(path, Permissions::from_mode(wanted & if found.is_dir() { 0o7777 } else { 0o1777 }))?;
        }
        Ok(())
    })
}

/// Calls it for a path and everything below, following no link. What vanishes meanwhile is passed over.
fn each(path: &Path, call: &mut dyn FnMut(&Path, &fs::Metadata) -> io::Result<()>) -> io::Result<()> {
    let gone_is_well = |result: io::Result<()>| match result {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    gone_is_well(call(path, &found))?;
    if found.is_dir() {
        for entry in fs::read_dir(path)?.flatten() {
            gone_is_well(each(&entry.path(), call))?;
        }
    }
    Ok(())
}

/// What Git needs to be told in trees of other users, unless the unit tells it something itself.
pub(super) fn git_variables(root: &Path) -> [(&'static str, std::ffi::OsString); 3] {
    [
        ("GIT_CONFIG_COUNT", "1".into()),
        ("GIT_CONFIG_KEY_0", "safe.directory".into()),
        ("GIT_CONFIG_VALUE_0", root.into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(dir: &Path) -> AutoUsers {
        AutoUsers::new(Places {
            runtime: dir.join("run/x"),
            state: dir.join("state/x"),
        })
    }

    fn wanting(names: &[&str]) -> Config {
        Config::of_units(
            names
                .iter()
                .map(|name| {
                    let mut unit = Unit::new(Name::new(name).unwrap(), Main::Worker(Worker::Agent));
                    unit.user = Some(AUTO.to_owned());
                    unit
                })
                .collect(),
        )
    }

    #[test]
    fn each_unit_keeps_a_uid_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = users(dir.path());
        let names: Vec<String> = (0..300).map(|n| format!("unit{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        first.configure(&wanting(&names));
        let different: std::collections::BTreeSet<u32> = first.uids.values().copied().collect();
        assert_eq!(different.len(), 300);
        assert!(different.iter().all(|uid| (FIRST..=LAST).contains(uid)));
        let mut second = users(dir.path());
        second.configure(&wanting(&names));
        assert_eq!(first.uids, second.uids);
    }

    #[test]
    fn nobody_gets_the_uid_of_a_unit_that_still_runs() {
        let dir = tempfile::tempdir().unwrap();
        let mut before = users(dir.path());
        before.configure(&wanting(&["old"]));
        let old = before.uids.values().copied().next().unwrap();
        let mut next = users(dir.path());
        next.go_on_with(before.hand_over());
        let names: Vec<String> = (0..4000).map(|n| format!("unit{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        next.configure(&wanting(&names));
        assert_eq!(next.uids.values().filter(|uid| **uid == old).count(), 1);
    }
}
