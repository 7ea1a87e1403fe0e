//! The tree of one supervisor: where it is, which controllers it has, and the groups of its runs.

use super::Rung;
use super::find::{self, CONTROLLERS, NOT_DELEGATED, Place};
use super::group::{self, Group};
use crate::host::runs::Key;
use crate::supervisor::event::Pid;
use crate::unit::{Config, Limits};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

/// Where we are when units need the controllers above us.
const SUPERVISOR: &str = "supervisor";
/// The end of a group's name, before the number of one that is made because the first is still in use.
const SUFFIX: &str = ".unit";
/// The file in the runtime directory that says where the tree is: for who comes after us, and for an upgraded image.
pub(super) const RECORD: &str = "cgroup";

/// The cgroups of a supervisor's units.
#[derive(Debug)]
pub(in crate::host) struct Tree {
    directory: PathBuf,
    /// As `/proc/PID/cgroup` shows it, with a slash at the end.
    prefix: String,
    record: PathBuf,
    /// What was handed down to the tree for it alone.
    opened: Vec<String>,
    rung: Rung,
    groups: BTreeMap<Key, Group>,
    by_name: HashMap<String, Key>,
}

/// The unit whose group has this name.
pub(super) fn unit_of(name: &str) -> Option<&str> {
    let (unit, number) = name.rsplit_once(SUFFIX)?;
    let numbered = number.strip_prefix('.').is_some_and(|number| number.parse::<u32>().is_ok());
    (number.is_empty() || numbered).then_some(unit)
}

impl Tree {
    /// Makes a tree below our cgroup, or takes the one over that the runtime directory names. `None` where that cannot be; the rung says
    /// why, and which controllers there are.
    pub(in crate::host) fn open(runtime: &Path) -> (Option<Self>, Rung) {
        match Self::try_open(runtime) {
            Ok(tree) => {
                let rung = tree.rung.clone();
                (Some(tree), rung)
            }
            Err(reason) => (None, Rung::none(reason)),
        }
    }

    fn try_open(runtime: &Path) -> Result<Self, String> {
        let record = runtime.join(RECORD);
        let known = fs::read_to_string(&record).ok().map(|text| PathBuf::from(text.trim_end()));
        let known = known.filter(|path| path.is_dir());
        let known_name = known.as_ref().and_then(|path| path.file_name()?.to_str()).unwrap_or_default();
        let place = find::find_outside_of(known_name)?;
        let instance = runtime.file_name().unwrap_or_default().to_string_lossy();
        let directory = known
            .filter(|path| path.parent() == Some(place.directory.as_path()))
            .unwrap_or_else(|| place.directory.join(format!("sandkeep-{instance}-{:08x}", fastrand::u32(..))));
        let failed = |act: &str, why: &io::Error| format!("{act} {}: {why}", directory.display());
        // Written first: whatever happens to us from here on, our successor knows where to look.
        fs::write(&record, directory.as_os_str().as_encoded_bytes()).map_err(|why| failed("noting", &why))?;
        match fs::create_dir(&directory) {
            Err(why) if why.kind() != io::ErrorKind::AlreadyExists => {
                let _ = fs::remove_file(&record);
                return Err(failed("making cgroup", &why));
            }
            Ok(()) | Err(_) => {}
        }
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!("{}/{name}/", place.path);
        let mut tree = Self {
            prefix,
            record,
            opened: Vec::new(),
            rung: Rung::default(),
            groups: BTreeMap::new(),
            by_name: HashMap::new(),
            directory,
        };
        tree.rung = tree.hand_down(&place);
        Ok(tree)
    }

    /// Hands the controllers down to the units' groups, as far as they are to be had. Moves us out of the way where that helps.
    fn hand_down(&mut self, place: &Place) -> Rung {
        let mut rung = Rung {
            groups: true,
            controllers: Vec::new(),
            reason: None,
        };
        if place.is_managed() {
            rung.reason = Some(NOT_DELEGATED.to_owned());
            return rung;
        }
        let available = place.controllers();
        let mut refusal = None;
        for controller in &available {
            match self.hand_down_one(&place.directory, controller) {
                Ok(()) => rung.controllers.push(controller.clone()),
                Err(why) => refusal = Some(why_not(&place.directory, &why)),
            }
        }
        let missing: Vec<&str> = CONTROLLERS
            .into_iter()
            .filter(|name| !rung.controllers.iter().any(|one| one == name))
            .collect();
        if rung.controllers.is_empty() {
            self.leave(&place.directory);
        }
        if !missing.is_empty() {
            rung.reason = Some(refusal.unwrap_or_else(|| place.why_missing(&missing)));
        }
        rung
    }

    fn hand_down_one(&mut self, above: &Path, controller: &str) -> io::Result<()> {
        let file = "cgroup.subtree_control";
        let on = format!("+{controller}");
        if !find::words(&above.join(file)).iter().any(|one| one == controller) {
            match group::write(&above.join(file), &on) {
                // Somebody is in the cgroup above, and it may be us alone.
                Err(why) if why.raw_os_error() == Some(libc::EBUSY) => {
                    self.step_aside()?;
                    group::write(&above.join(file), &on)?;
                }
                other => other?,
            }
            self.opened.push(controller.to_owned());
        }
        group::write(&self.directory.join(file), &on)
    }

    /// Moves us into a cgroup where we are in nobody's way.
    fn step_aside(&self) -> io::Result<()> {
        let aside = self.directory.join(SUPERVISOR);
        match fs::create_dir(&aside) {
            Err(why) if why.kind() != io::ErrorKind::AlreadyExists => return Err(why),
            Ok(()) | Err(_) => {}
        }
        group::write(&aside.join("cgroup.procs"), "0")
    }

    /// Undoes what was done above us, as far as nobody else has come to need it, and goes back there.
    fn leave(&mut self, above: &Path) {
        for controller in std::mem::take(&mut self.opened) {
            let off = format!("-{controller}");
            let _ = group::write(&self.directory.join("cgroup.subtree_control"), &off);
            let _ = group::write(&above.join("cgroup.subtree_control"), &off);
        }
        let aside = self.directory.join(SUPERVISOR);
        if aside.is_dir() {
            let _ = group::write(&above.join("cgroup.procs"), "0");
            let _ = fs::remove_dir(aside);
        }
    }

    /// A group for a run: its unit's last one, if nothing is left in it. The warnings name limits that were refused.
    pub(in crate::host) fn begin(&mut self, key: &Key, limits: &Limits) -> io::Result<Vec<String>> {
        if !self.groups.contains_key(key) {
            let group = match self.take_idle(key) {
                Some(group) => group,
                None => self.make(key)?,
            };
            self.insert(key.clone(), group);
        }
        let wanted = self.rung.within_reach(limits);
        Ok(self.groups.get_mut(key).map(|group| group.limit(&wanted)).unwrap_or_default())
    }

    /// Sets the limits of every unit's groups anew. What was refused, for people.
    pub(in crate::host) fn limit(&mut self, config: &Config) -> Vec<String> {
        let mut refused = Vec::new();
        for (key, group) in &mut self.groups {
            if let Some(unit) = config.units.iter().find(|unit| unit.name == key.0) {
                let faults = group.limit(&self.rung.within_reach(&unit.limits));
                refused.extend(faults.into_iter().map(|fault| format!("{}: {fault}", unit.name)));
            }
        }
        refused
    }

    /// Lets go of a run's group, which is of no use to it.
    pub(in crate::host) fn forget(&mut self, key: &Key) {
        if let Some(group) = self.groups.remove(key) {
            self.by_name.retain(|_, of| of != key);
            let _ = group.remove();
        }
    }

    fn insert(&mut self, key: Key, group: Group) {
        if let Some(name) = group.path().file_name().and_then(|name| name.to_str()) {
            self.by_name.insert(name.to_owned(), key.clone());
        }
        self.groups.insert(key, group);
    }

    fn take_idle(&mut self, key: &Key) -> Option<Group> {
        let of_unit = self.groups.range((key.0.clone(), 0)..=(key.0.clone(), u64::MAX));
        let idle = of_unit
            .filter(|(_, group)| !group.is_populated() && group.path().is_dir())
            .map(|(key, _)| key.clone())
            .next()?;
        self.groups.remove(&idle)
    }

    fn make(&self, key: &Key) -> io::Result<Group> {
        let taken = |name: &String| {
            self.by_name.contains_key(name) || Group::open(self.directory.join(name)).is_ok_and(|group| group.is_populated())
        };
        let first = format!("{}{SUFFIX}", key.0);
        let numbered = (2..).map(|number: u32| format!("{first}.{number}"));
        let name = std::iter::once(first.clone()).chain(numbered).find(|name| !taken(name));
        Group::make(self.directory.join(name.unwrap_or(first)))
    }

    /// Takes the group over that a run of ours had before an upgrade.
    pub(in crate::host) fn adopt(&mut self, key: &Key, path: PathBuf) -> io::Result<()> {
        let group = Group::open(path)?;
        self.insert(key.clone(), group);
        Ok(())
    }

    /// The directory of a run's group, to start processes in.
    pub(in crate::host) fn descriptor(&self, key: &Key) -> Option<BorrowedFd<'_>> {
        self.groups.get(key).map(Group::descriptor)
    }

    /// The path of a run's group.
    pub(in crate::host) fn path(&self, key: &Key) -> Option<&Path> {
        self.groups.get(key).map(Group::path)
    }

    /// Processes of a run; `None` when it has no group.
    pub(in crate::host) fn processes(&self, key: &Key) -> Option<Vec<Pid>> {
        self.groups.get(key).map(Group::processes)
    }

    /// Whether anything of a run lives in its group.
    pub(in crate::host) fn is_populated(&self, key: &Key) -> bool {
        self.groups.get(key).is_some_and(Group::is_populated)
    }

    /// SIGKILL for everything in a run's group.
    pub(in crate::host) fn kill(&self, key: &Key, signal_one: impl Fn(Pid)) {
        if let Some(group) = self.groups.get(key) {
            group.kill(signal_one);
        }
    }

    /// How many processes of a run's group the OOM killer has ended since the group was made.
    pub(in crate::host) fn oom_kills(&self, key: &Key) -> Option<u64> {
        group::oom_kills(self.groups.get(key)?.path())
    }

    /// The run in whose group a process is.
    pub(in crate::host) fn owner(&self, pid: Pid) -> Option<&Key> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        let name = path.strip_prefix(&self.prefix)?.split('/').next()?;
        self.by_name.get(name)
    }

    /// Takes the groups of units away that are no more, and of nothing else that is in use.
    pub(in crate::host) fn prune(&mut self, keep: impl Fn(&Key) -> bool) {
        let by_name = &mut self.by_name;
        self.groups.retain(|key, group| {
            let gone = !keep(key) && !group.is_populated() && group.remove().is_ok();
            if gone {
                by_name.retain(|_, of| of != key);
            }
            !gone
        });
    }

    /// Takes everything away at the end. What cannot be removed, for something is in it, is left to the next start.
    fn close(&mut self) {
        self.prune(|_| false);
        if !self.groups.is_empty() {
            return;
        }
        if let Some(above) = self.directory.parent().map(Path::to_path_buf) {
            self.leave(&above);
        }
        match group::remove(&self.directory) {
            Ok(()) => {
                let _ = fs::remove_file(&self.record);
            }
            Err(why) => tracing::debug!(path = %self.directory.display(), %why, "the cgroup is left"),
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.close();
    }
}

fn why_not(above: &Path, why: &io::Error) -> String {
    if why.raw_os_error() == Some(libc::EBUSY) {
        return format!(
            "other processes than ours are in {}, which therefore cannot hand controllers down",
            above.display()
        );
    }
    format!("handing controllers down from {}: {why}", above.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_name_tells_its_unit() {
        assert_eq!(unit_of("dev.unit"), Some("dev"));
        assert_eq!(unit_of("a.unit.unit"), Some("a.unit"));
        assert_eq!(unit_of("dev.unit.2"), Some("dev"));
        assert_eq!(unit_of("dev.unit.x"), None);
        assert_eq!(unit_of(SUPERVISOR), None);
    }
}
