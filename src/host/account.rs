//! Users and groups of the machine.

use super::environment::Variables;
use super::fault::StartFault;
use super::sys::Credentials;
use crate::unit::Unit;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use std::ffi::CString;
use std::path::PathBuf;

/// Who a unit's processes run as.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) uid: u32,
    gid: u32,
    name: Option<String>,
    home: Option<PathBuf>,
    shell: Option<PathBuf>,
    /// Whether it was made for its unit.
    made: bool,
}

impl Account {
    /// Looks up the unit's user and group; `None` when it names neither.
    pub(super) fn of(unit: &Unit) -> Result<Option<Self>, StartFault> {
        if unit.user.is_none() && unit.group.is_none() {
            return Ok(None);
        }
        let mut account = match &unit.user {
            Some(user) => Self::named(user)?,
            None => Self {
                uid: nix::unistd::geteuid().as_raw(),
                gid: 0,
                name: None,
                home: None,
                shell: None,
                made: false,
            },
        };
        if let Some(group) = &unit.group {
            account.gid = group_id(group)?;
        }
        Ok(Some(account))
    }

    fn named(user: &str) -> Result<Self, StartFault> {
        let failed = |why: nix::Error| StartFault::new(format!("looking up user `{user}`"), &why.into());
        let found = match user.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)).map_err(failed)?.ok_or(uid),
            Err(_) => Ok(User::from_name(user).map_err(failed)?.ok_or_else(|| no_such("user", user))?),
        };
        Ok(match found {
            Ok(user) => {
                let User {
                    name,
                    uid,
                    gid,
                    dir,
                    shell,
                    ..
                } = user;
                Self {
                    uid: uid.as_raw(),
                    gid: gid.as_raw(),
                    name: Some(name),
                    home: Some(dir),
                    shell: Some(shell),
                    made: false,
                }
            }
            Err(uid) => Self {
                uid,
                gid: uid,
                name: None,
                home: None,
                shell: None,
                made: false,
            },
        })
    }

    /// A user that was made for a unit: it is known to nobody but us.
    pub(super) fn made(unit: &Unit, uid: u32, gid: u32, home: PathBuf) -> Self {
        Self {
            uid,
            gid,
            name: Some(unit.name.as_str().to_owned()),
            home: Some(home),
            shell: Some("/bin/sh".into()),
            made: true,
        }
    }

    /// Whether it was made for its unit.
    pub(super) fn is_made(&self) -> bool {
        self.made
    }

    /// Whether processes of ours have this user and group anyway.
    pub(super) fn is_ours(&self, unit: &Unit) -> bool {
        let group_is_ours = unit.group.is_none() || self.gid == nix::unistd::getegid().as_raw();
        self.uid == nix::unistd::geteuid().as_raw() && group_is_ours
    }

    /// What the child sets: the user, the group, and the groups that the user belongs to.
    pub(super) fn credentials(&self) -> Credentials {
        let gid = Gid::from_raw(self.gid);
        let known = self.name.as_deref().filter(|_| !self.made);
        let name = known.and_then(|name| CString::new(name).ok());
        let groups = name.and_then(|name| getgrouplist(&name, gid).ok()).unwrap_or_else(|| vec![gid]);
        Credentials {
            uid: self.uid,
            gid: self.gid,
            groups: groups.into_iter().map(Gid::as_raw).collect(),
        }
    }

    /// Sets the variables that tell a process who it is.
    pub(super) fn describe(&self, variables: &mut Variables) {
        if let Some(name) = &self.name {
            variables.insert("USER".into(), name.into());
            variables.insert("LOGNAME".into(), name.into());
        }
        if let Some(home) = &self.home {
            variables.insert("HOME".into(), home.into());
        }
        if let Some(shell) = self.shell.as_ref().filter(|shell| !shell.as_os_str().is_empty()) {
            variables.insert("SHELL".into(), shell.into());
        }
    }
}

fn group_id(group: &str) -> Result<u32, StartFault> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    match Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => Err(no_such("group", group)),
        Err(why) => Err(StartFault::new(format!("looking up group `{group}`"), &why.into())),
    }
}

fn no_such(kind: &str, name: &str) -> StartFault {
    StartFault::final_fault(format!("setting {kind} `{name}`: no such {kind}"))
}
