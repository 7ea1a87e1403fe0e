//! Where we are in the hierarchy of cgroups, and what may be done there. cgroups(7), proc(5).

use super::Rung;
use nix::unistd::{AccessFlags, access};
use std::fs;
use std::path::{Path, PathBuf};

/// The controllers that the keys of a unit need.
pub(super) const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Our cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its directory.
    pub(super) directory: PathBuf,
    /// Its path as `/proc/PID/cgroup` shows it.
    pub(super) path: String,
    /// Whether cgroup v1 is there too, and may keep controllers for itself.
    pub(super) hybrid: bool,
}

/// A mount of the unified hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    root: String,
    writable: bool,
}

/// Finds our cgroup and sees that groups may be made in it; else why not. Within a tree of this name we look above it.
pub(super) fn find_outside_of(tree: &str) -> Result<Place, String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let place = place(&mounts, &own)?.outside_of(tree);
    let directory = &place.directory;
    let may = |what: &Path, how| access(what, how).map_err(|why| format!("{} cannot be written: {}", what.display(), why.desc()));
    may(directory, AccessFlags::W_OK | AccessFlags::X_OK)?;
    may(&directory.join("cgroup.procs"), AccessFlags::W_OK)?;
    // The machine's root has no type. In a threaded cgroup no process can be put anywhere.
    match fs::read_to_string(directory.join("cgroup.type")) {
        Ok(kind) if kind.trim() != "domain" => Err(format!("{} is a cgroup of type `{}`", directory.display(), kind.trim())),
        Ok(_) | Err(_) => Ok(place),
    }
}

/// The place by what the kernel says of mounts and of ourselves.
fn place(mounts: &str, own: &str) -> Result<Place, String> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"));
    let Some(path) = path else {
        return Err("the kernel has no cgroup v2".to_owned());
    };
    if path.starts_with("/..") {
        return Err("our cgroup is outside of our cgroup namespace".to_owned());
    }
    let hybrid = own.lines().any(|line| !line.starts_with("0::") && !line.contains("name="));
    let mut refusal = "cgroup v2 is not mounted".to_owned();
    for mount in mounts.lines().filter_map(parse_mount) {
        // With a cgroup namespace, or a bind mount, only a part of the hierarchy is there; we must be in it.
        let Some(below) = below(path, &mount.root) else {
            refusal = format!("our cgroup is outside of what is mounted at {}", mount.point.display());
            continue;
        };
        if !mount.writable {
            refusal = format!("cgroup v2 is mounted read-only at {}", mount.point.display());
            continue;
        }
        return Ok(Place {
            directory: mount.point.join(below),
            path: path.trim_end_matches('/').to_owned(),
            hybrid,
        });
    }
    Err(refusal)
}

/// The rest of a path after the root of a mount.
fn below<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    let rest = if root == "/" { path } else { path.strip_prefix(root)? };
    (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_start_matches('/'))
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut file_system = file_system.split(' ');
    if file_system.next()? != "cgroup2" {
        return None;
    }
    let options_of_all = file_system.nth(1).unwrap_or_default();
    let mut fields = mount.split(' ').skip(3);
    let (root, point, options) = (fields.next()?, fields.next()?, fields.next()?);
    let read_only = |options: &str| options.split(',').any(|option| option == "ro");
    Some(Mount {
        point: PathBuf::from(unescape(point)),
        root: unescape(root),
        writable: !read_only(options) && !read_only(options_of_all),
    })
}

/// Spaces, tabs, line feeds and backslashes are written as three octal digits.
fn unescape(text: &str) -> String {
    let mut plain = text.to_owned();
    for (code, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        plain = plain.replace(code, character);
    }
    plain
}

impl Place {
    /// The cgroup above the tree of an earlier supervisor, or of ourselves before an upgrade, in which we may find us.
    pub(super) fn outside_of(mut self, tree: &str) -> Self {
        let Some(at) = self.path.split('/').position(|name| name == tree && !name.is_empty()) else {
            return self;
        };
        let inside = self.path.split('/').count() - at;
        for _ in 0..inside {
            self.directory.pop();
        }
        self.path = self.path.split('/').take(at).collect::<Vec<_>>().join("/");
        self
    }

    /// The controllers that could be handed down from here.
    pub(super) fn controllers(&self) -> Vec<String> {
        words(&self.directory.join("cgroup.controllers"))
            .into_iter()
            .filter(|name| CONTROLLERS.contains(&name.as_str()))
            .collect()
    }

    /// Whether systemd rules here and did not leave this cgroup to us: then its controllers are not ours to hand down.
    pub(super) fn is_managed(&self) -> bool {
        let delegated = ["trusted.delegate", "user.delegate"].iter().any(|name| {
            let mut value = [0; 8];
            rustix::fs::getxattr(&self.directory, *name, &mut value).is_ok_and(|length| &value[..length] == b"1")
        });
        Path::new("/run/systemd/system").exists() && !delegated && self.controllers_of_children().is_empty()
    }

    fn controllers_of_children(&self) -> Vec<String> {
        words(&self.directory.join("cgroup.subtree_control"))
    }

    /// Why a controller is missing that nobody refused us.
    pub(super) fn why_missing(&self, missing: &[&str]) -> String {
        let names = missing.join(", ");
        if self.hybrid {
            format!("{names}: bound to cgroup v1 on this machine")
        } else {
            format!("{names}: not handed down to {}", self.directory.display())
        }
    }

    /// What a supervisor would find, as far as it can be told without trying.
    pub(super) fn prospect(&self) -> Rung {
        let controllers = if self.is_managed() { Vec::new() } else { self.controllers() };
        let missing: Vec<&str> = CONTROLLERS
            .into_iter()
            .filter(|name| !controllers.iter().any(|one| one == name))
            .collect();
        let reason = match missing.is_empty() {
            true => None,
            false if self.is_managed() => Some(NOT_DELEGATED.to_owned()),
            false => Some(self.why_missing(&missing)),
        };
        Rung {
            groups: true,
            controllers,
            reason,
        }
    }
}

/// What to say, and do, under systemd.
pub(super) const NOT_DELEGATED: &str =
    "systemd did not delegate our cgroup: `Delegate=yes` in the service, or `systemd-run --scope -p Delegate=yes`";

/// The words of a file of the kernel's.
pub(super) fn words(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str =
        "24 1 0:22 / /proc rw - proc proc rw\n30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";

    #[test]
    fn a_service_of_a_unified_machine_is_below_its_mount() {
        let place = place(UNIFIED, "0::/system.slice/sandkeep.service\n").unwrap();
        assert_eq!(place.directory, Path::new("/sys/fs/cgroup/system.slice/sandkeep.service"));
        assert_eq!((place.path.as_str(), place.hybrid), ("/system.slice/sandkeep.service", false));
        assert_eq!(place.outside_of("sandkeep-default-1").path, "/system.slice/sandkeep.service");
    }

    #[test]
    fn a_hybrid_machine_has_it_beside_the_others() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        let place = place(mounts, "4:memory:/x\n1:name=systemd:/\n0::/\n").unwrap();
        assert_eq!((place.directory.to_str(), place.hybrid), (Some("/sys/fs/cgroup/unified/"), true));
        assert_eq!(place.path, "");
        assert!(place.why_missing(&["memory"]).contains("cgroup v1"));
    }

    #[test]
    fn a_container_sees_only_its_part() {
        let bind = "30 23 0:26 /docker/ab12 /sys/fs/cgroup rw - cgroup2 cgroup rw";
        assert_eq!(place(bind, "0::/docker/ab12/x\n").unwrap().directory, Path::new("/sys/fs/cgroup/x"));
        assert!(place(bind, "0::/docker/ab12345\n").unwrap_err().contains("outside"));
        assert!(place(UNIFIED, "0::/../other\n").unwrap_err().contains("namespace"));
    }

    #[test]
    fn what_is_not_there_or_not_ours_to_write_is_said() {
        let read_only = "30 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw";
        assert!(place(read_only, "0::/\n").unwrap_err().contains("read-only at /sys/fs/cgroup"));
        assert!(place("", "0::/\n").unwrap_err().contains("not mounted"));
        assert!(place("", "4:memory:/\n").unwrap_err().contains("no cgroup v2"));
    }

    #[test]
    fn within_the_tree_of_an_earlier_supervisor_we_look_above_it() {
        let inside = place(UNIFIED, "0::/a/sandkeep-x/dev/deep\n").unwrap().outside_of("sandkeep-x");
        assert_eq!((inside.path.as_str(), inside.directory.to_str()), ("/a", Some("/sys/fs/cgroup/a")));
        assert_eq!(
            place(UNIFIED, "0::/\n").unwrap().outside_of("").directory,
            Path::new("/sys/fs/cgroup/")
        );
        let at_root = place(UNIFIED, "0::/sandkeep-x/supervisor\n").unwrap().outside_of("sandkeep-x");
        assert_eq!((at_root.path.as_str(), at_root.directory.to_str()), ("", Some("/sys/fs/cgroup")));
    }

    #[test]
    fn names_with_spaces_come_back() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
