//! Files below one directory, reached without ever following a symbolic link out of it or through it. openat2(2).
//!
//! Names come from a bucket or from a tree that others write to; a directory may become a link between two looks at it. So every
//! access goes component by component from an open root, with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`, or by single `openat` steps
//! with `O_NOFOLLOW` where the kernel has no openat2.

use super::path::TreePath;
use crate::ordered::Order;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use rustix::fs::{RenameFlags, renameat_with};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// How the names of our own temporary files begin; never kept, never listed.
pub const TEMPORARY: &str = ".sandkeep-tmp-";

/// What kind of thing a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A directory.
    Directory,
    /// A FIFO, a socket or a device.
    Special,
}

/// What the file system says of a file; two equal ones mean unchanged content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its kind.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Last change of the content, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Last change of anything.
    pub ctime_ns: i64,
    /// Inode number.
    pub ino: u64,
    /// Device number.
    pub dev: u64,
}

impl Stat {
    /// From what the kernel answered.
    #[expect(clippy::cast_sign_loss, reason = "sizes are not negative")]
    pub fn new(stat: &FileStat) -> Self {
        let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG => Kind::File,
            SFlag::S_IFLNK => Kind::Link,
            SFlag::S_IFDIR => Kind::Directory,
            _ => Kind::Special,
        };
        Self {
            kind,
            size: stat.st_size as u64,
            mode: stat.st_mode & 0o777,
            mtime_ns: stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec,
            ctime_ns: stat.st_ctime * 1_000_000_000 + stat.st_ctime_nsec,
            ino: stat.st_ino,
            dev: stat.st_dev,
        }
    }

    /// Of an open file.
    pub fn of(file: &impl AsFd) -> io::Result<Self> {
        Ok(Self::new(&fstat(file)?))
    }
}

/// An open directory that is the limit of everything done through it.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens a directory; its own path may go through links.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = std::fs::canonicalize(path)?;
        let fd = openat(
            nix::fcntl::AT_FDCWD,
            &path,
            OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self { fd, path })
    }

    /// Where it was opened, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was opened, even if its path leads elsewhere by now.
    pub fn stat(&self) -> io::Result<Stat> {
        Stat::of(&self.fd)
    }

    /// Waits until everything that was written to its file system is on the disk. syncfs(2).
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.fd)?)
    }

    /// Whether its path still leads to what was opened.
    pub fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        match (self.stat(), std::fs::metadata(&self.path)) {
            (Ok(own), Ok(there)) => (own.ino, own.dev) == (there.ino(), there.dev()),
            _ => false,
        }
    }

    /// A directory below; `""` is the root itself.
    pub fn directory(&self, relative: &str) -> io::Result<OwnedFd> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        Ok(self.open_beneath(if relative.is_empty() { "." } else { relative }, flags)?)
    }

    /// A directory below that is made, with everything above it, where it is missing.
    pub fn make_directory(&self, relative: &str) -> io::Result<OwnedFd> {
        match self.directory(relative) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut here = self.directory("")?;
        for part in relative.split('/') {
            match mkdirat(&here, part, Mode::from_bits_truncate(0o777)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
            here = step(&here, part, OFlag::O_DIRECTORY | OFlag::O_RDONLY)?;
        }
        Ok(here)
    }

    /// What the name stands for, links not followed; `None` when there is nothing, or a file or a link where a directory should be.
    pub fn lstat(&self, path: &TreePath) -> io::Result<Option<Stat>> {
        let directory = match self.directory(path.parent().unwrap_or("")) {
            Ok(directory) => directory,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        stat_in(&directory, path.file_name())
    }

    /// The same for paths that come in order: the directory is opened once for all that is in it.
    pub fn lstat_near(&self, near: &mut Near, path: &TreePath) -> io::Result<Option<Stat>> {
        let parent = path.parent().unwrap_or("");
        let directory = match near.at(parent) {
            Some(directory) => directory,
            None => match self.directory(parent) {
                Ok(directory) => near.go(parent, Some(directory)),
                Err(error) if is_absent(&error) => near.go(parent, None),
                Err(error) => return Err(error),
            },
        };
        directory.map_or(Ok(None), |directory| stat_in(&directory, path.file_name()))
    }

    /// Opens a file for reading; never blocks on a FIFO.
    pub fn open_file(&self, path: &TreePath) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        Ok(File::from(self.open_beneath(path.as_str(), flags)?))
    }

    /// Where a symbolic link points to.
    pub fn read_link(&self, path: &TreePath) -> io::Result<OsString> {
        Ok(readlinkat(self.directory(path.parent().unwrap_or(""))?, path.file_name())?)
    }

    /// The names in a directory with what they stand for, sorted by their bytes. What vanishes meanwhile is left out.
    pub fn entries(&self, relative: &str) -> io::Result<Vec<(OsString, Stat)>> {
        let mut directory = Dir::from_fd(self.directory(relative)?)?;
        let mut names = Vec::new();
        for entry in directory.iter() {
            let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.order();
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            match fstatat(&directory, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => entries.push((name, Stat::new(&stat))),
                Err(Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(entries)
    }

    /// Begins a file that appears under its name whole or not at all.
    pub fn begin(&self, path: &TreePath) -> io::Result<Pending> {
        self.begin_near(&mut Near::default(), path, 0o600)
    }

    /// The same for paths that come in order, with the permissions that the file will have.
    pub fn begin_near(&self, near: &mut Near, path: &TreePath, mode: u32) -> io::Result<Pending> {
        let parent = path.parent().unwrap_or("");
        if let Some(Some(directory)) = near.at(parent) {
            match begin_in(&directory, path.file_name(), mode) {
                // It may have been removed since, and is made anew.
                Err(error) if is_absent(&error) => {}
                other => return other,
            }
        }
        let directory = Arc::new(self.make_directory(parent)?);
        near.last = Some((parent.to_owned(), Some(Arc::clone(&directory))));
        begin_in(&directory, path.file_name(), mode)
    }

    /// Puts a symbolic link there, in place of a file or link.
    pub fn put_link(&self, path: &TreePath, target: &str) -> io::Result<Stat> {
        let directory = self.make_directory(path.parent().unwrap_or(""))?;
        let temporary = format!("{TEMPORARY}{:016x}", fastrand::u64(..));
        symlinkat(target, &directory, temporary.as_str())?;
        let pending = Pending {
            file: None,
            directory: Arc::new(directory),
            temporary,
            name: path.file_name().to_owned(),
            mode: None,
            appeared: false,
        };
        pending.appear(Replace::Anything)
    }

    /// Removes a file or link, and the directories above it that are empty then. Nothing there is no error.
    pub fn remove(&self, path: &TreePath) -> io::Result<()> {
        let directory = match self.directory(path.parent().unwrap_or("")) {
            Ok(directory) => directory,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        match unlinkat(&directory, path.file_name(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        self.prune(path);
        Ok(())
    }

    /// Removes an empty directory; anything else stays as it is.
    pub fn remove_directory(&self, relative: &str) -> io::Result<()> {
        let (parent, name) = relative.rsplit_once('/').unwrap_or(("", relative));
        Ok(unlinkat(self.directory(parent)?, name, UnlinkatFlags::RemoveDir)?)
    }

    fn prune(&self, path: &TreePath) {
        let mut above: Vec<_> = path.ancestors().collect();
        while let Some(directory) = above.pop() {
            if self.remove_directory(directory).is_err() {
                return;
            }
        }
    }

    fn open_beneath(&self, relative: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        loop {
            match openat2(&self.fd, relative, how) {
                // A rename somewhere above made the walk uncertain.
                Err(Errno::EAGAIN) => {}
                Err(Errno::ENOSYS | Errno::EPERM) => return self.open_by_steps(relative, flags),
                other => return other,
            }
        }
    }

    fn open_by_steps(&self, relative: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let mut parts = relative.split('/').peekable();
        let mut here: Option<OwnedFd> = None;
        while let Some(part) = parts.next() {
            let wanted = if parts.peek().is_some() {
                OFlag::O_DIRECTORY | OFlag::O_RDONLY
            } else {
                flags
            };
            here = Some(match &here {
                None => step(&self.fd, part, wanted)?,
                Some(fd) => step(fd, part, wanted)?,
            });
        }
        here.ok_or(Errno::ENOENT)
    }
}

/// The directory that was looked at last, kept open for what comes next: most of what comes in order is in the same one. To be held for
/// moments only, since the directory may be moved meanwhile.
#[derive(Debug, Default)]
pub struct Near {
    /// `None` within = there is no such directory.
    last: Option<(String, Option<Arc<OwnedFd>>)>,
}

impl Near {
    fn at(&self, directory: &str) -> Option<Option<Arc<OwnedFd>>> {
        let (name, open) = self.last.as_ref()?;
        (name == directory).then(|| open.clone())
    }

    fn go(&mut self, directory: &str, open: Option<OwnedFd>) -> Option<Arc<OwnedFd>> {
        let open = open.map(Arc::new);
        self.last = Some((directory.to_owned(), open.clone()));
        open
    }
}

fn begin_in(directory: &Arc<OwnedFd>, name: &str, mode: u32) -> io::Result<Pending> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let mode = mode & 0o777 | 0o600;
    loop {
        let temporary = format!("{TEMPORARY}{:016x}", fastrand::u64(..));
        match openat(&**directory, temporary.as_str(), flags, Mode::from_bits_truncate(mode)) {
            Ok(fd) => {
                return Ok(Pending {
                    file: Some(File::from(fd)),
                    directory: Arc::clone(directory),
                    temporary,
                    name: name.to_owned(),
                    mode: umask().map(|umask| mode & !umask),
                    appeared: false,
                });
            }
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What this process takes away from new files' permissions; `None` where it cannot be told without changing it.
fn umask() -> Option<u32> {
    static UMASK: OnceLock<Option<u32>> = OnceLock::new();
    *UMASK.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
        u32::from_str_radix(line.trim(), 8).ok()
    })
}

fn step(from: &impl AsFd, part: &str, flags: OFlag) -> nix::Result<OwnedFd> {
    if part == ".." {
        return Err(Errno::EXDEV);
    }
    openat(from.as_fd(), part, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

/// Whether an error says that there is nothing under the name: missing, or something else where a directory should be.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)
    )
}

/// What may be there when a pending file appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Any file or link, or nothing.
    Anything,
    /// Nothing.
    Nothing,
}

/// A file under a temporary name; removed again unless it is made to appear.
#[derive(Debug)]
pub struct Pending {
    file: Option<File>,
    directory: Arc<OwnedFd>,
    temporary: String,
    name: String,
    /// The permissions that it should have by now.
    mode: Option<u32>,
    appeared: bool,
}

impl Pending {
    /// The open file.
    pub fn file(&mut self) -> &mut File {
        self.file.as_mut().expect("only links have no file, and they are not handed out")
    }

    /// Sets permissions and the time of the last change.
    pub fn dress(&mut self, mode: u32, mtime_ns: Option<i64>) -> io::Result<()> {
        let mode = mode & 0o777;
        if self.mode != Some(mode) {
            self.set_mode(mode)?;
            self.mode = Some(mode);
        }
        if let Some(ns) = mtime_ns {
            let time = TimeSpec::new(ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
            futimens(self.file(), &time, &time)?;
        }
        Ok(())
    }

    fn set_mode(&mut self, mode: u32) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        self.file().set_permissions(std::fs::Permissions::from_mode(mode))
    }

    /// What its name stands for until it appears.
    pub fn seen(&self) -> io::Result<Option<Stat>> {
        stat_in(&self.directory, &self.name)
    }

    /// Gives it its name. Gives what it is then.
    pub fn appear(mut self, replace: Replace) -> io::Result<Stat> {
        match replace {
            Replace::Anything => renameat(&*self.directory, self.temporary.as_str(), &*self.directory, self.name.as_str())?,
            Replace::Nothing => renameat_with(
                &*self.directory,
                self.temporary.as_str(),
                &*self.directory,
                self.name.as_str(),
                RenameFlags::NOREPLACE,
            )?,
        }
        self.appeared = true;
        match &self.file {
            Some(file) => {
                let stat = Stat::of(file)?;
                match self.mode.filter(|mode| *mode != stat.mode) {
                    None => Ok(stat),
                    // An access control list of the directory has its own will.
                    Some(mode) => self.set_mode(mode).and_then(|()| Stat::of(self.file())),
                }
            }
            None => stat_in(&self.directory, &self.name)?.ok_or_else(|| io::ErrorKind::NotFound.into()),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.appeared {
            let _ = unlinkat(&*self.directory, self.temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn stat_in(directory: &OwnedFd, name: &str) -> io::Result<Option<Stat>> {
    match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Stat::new(&stat))),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn path(name: &str) -> TreePath {
        TreePath::parse(name).expect("a good path")
    }

    #[test]
    fn a_link_is_never_gone_through() {
        let outside = tempfile::tempdir().expect("a directory");
        let inside = tempfile::tempdir().expect("a directory");
        std::fs::write(outside.path().join("secret"), "x").expect("written");
        std::os::unix::fs::symlink(outside.path(), inside.path().join("door")).expect("linked");
        let root = Root::open(inside.path()).expect("opened");
        assert!(root.open_file(&path("door/secret")).is_err());
        assert!(root.begin(&path("door/new")).is_err());
        assert_eq!(root.lstat(&path("door/secret")).expect("answered"), None);
        assert!(root.open_by_steps("door/secret", OFlag::O_RDONLY).is_err());
        assert!(root.open_by_steps("../x", OFlag::O_RDONLY).is_err());
        assert!(!outside.path().join("new").exists());
    }

    #[test]
    fn permissions_are_what_was_asked_for_whatever_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        let inside = tempfile::tempdir().expect("a directory");
        let root = Root::open(inside.path()).expect("opened");
        let mut near = Near::default();
        for mode in [0o644, 0o666, 0o777, 0o600, 0o444, 0o000] {
            let name = path(&format!("d/{mode:o}"));
            let mut pending = root.begin_near(&mut near, &name, mode).expect("begun");
            pending.dress(mode, Some(1_000_000_007)).expect("dressed");
            let stat = pending.appear(Replace::Nothing).expect("appeared");
            let there = std::fs::metadata(root.path().join(name)).expect("there");
            assert_eq!((there.permissions().mode() & 0o777, stat.mode), (mode, mode));
            assert_eq!(stat.mtime_ns, 1_000_000_007);
        }
    }

    #[test]
    fn a_directory_that_is_kept_open_may_be_removed_and_is_made_anew() {
        let inside = tempfile::tempdir().expect("a directory");
        let root = Root::open(inside.path()).expect("opened");
        let mut near = Near::default();
        for name in ["d/e/1", "d/e/2"] {
            root.begin_near(&mut near, &path(name), 0o644)
                .and_then(|pending| pending.appear(Replace::Nothing))
                .expect("appeared");
            assert!(root.lstat(&path(name)).expect("answered").is_some());
            std::fs::remove_dir_all(root.path().join("d")).expect("removed");
        }
    }

    #[test]
    fn looks_in_order_find_what_single_looks_find() {
        let inside = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(inside.path().join("a/b")).expect("made");
        std::fs::write(inside.path().join("a/b/1"), "x").expect("written");
        std::fs::write(inside.path().join("top"), "x").expect("written");
        std::os::unix::fs::symlink("a", inside.path().join("link")).expect("linked");
        let root = Root::open(inside.path()).expect("opened");
        let mut near = Near::default();
        for name in [
            "a/b", "a/b/1", "a/b/2", "gone/1", "gone/2", "link", "link/b/1", "top", "top/1", "top/2",
        ] {
            let name = path(name);
            assert_eq!(
                root.lstat_near(&mut near, &name).expect("answered"),
                root.lstat(&name).expect("answered"),
                "{name}"
            );
        }
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let inside = tempfile::tempdir().expect("a directory");
        let root = Root::open(inside.path()).expect("opened");
        let mut pending = root.begin(&path("a/b/c")).expect("begun");
        pending.file().write_all(b"x").expect("written");
        drop(pending);
        assert_eq!(root.entries("a/b").expect("listed").len(), 0);
        let mut pending = root.begin(&path("a/b/c")).expect("begun");
        pending.dress(0o640, Some(1_500_000_000)).expect("dressed");
        pending.appear(Replace::Nothing).expect("appeared");
        let stat = root.lstat(&path("a/b/c")).expect("answered").expect("there");
        assert_eq!((stat.kind, stat.mode, stat.mtime_ns), (Kind::File, 0o640, 1_500_000_000));
        let again = root.begin(&path("a/b/c")).expect("begun");
        assert!(again.appear(Replace::Nothing).is_err());
        root.remove(&path("a/b/c")).expect("removed");
        assert!(!inside.path().join("a").exists());
    }
}
