//! What a power loss, or a virtual machine that is killed, leaves behind: names whose bytes never reached the disk.
//!
//! The kernel writes a new file's name before its bytes, so that a machine that dies within half a minute can wake up with files that
//! are empty or end early. Were such a file taken for an edit, it would replace the good one in the store. Two things prevent that:
//!
//! - A restore is made durable before it is written down: files, then one `syncfs`, then the index. So an entry of a restore never
//!   outlives the bytes that it describes.
//! - The index says under which boot of the machine it was last compared with the tree. After another one it is compared with the store
//!   again before anything is sent, and a file that is shorter than it was, and no younger, is what was left of it: it is brought back.
//!   That also covers a person's own new file that was sent before the kernel had written it here.

use super::arrive::There;
use super::beneath::{Kind, Root, Stat};
use super::engine::Engine;
use super::error::SyncError;
use super::index::Entry;
use super::plan::Step;
use nix::errno::Errno;

/// This boot of the machine; `None` where it has no name, and then every start counts as another one.
pub(super) fn boot() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned()).filter(|boot| !boot.is_empty())
}

impl Engine {
    /// Whether the machine may have lost what was written here since the index was compared with the tree.
    pub fn may_have_lost_bytes(&self) -> bool {
        self.boot.is_none() || self.index.boot != self.boot
    }
}

/// Waits until what was put below a root is on the disk. Free where there is no disk below it, as on tmpfs; elsewhere it also waits for
/// what others have just written to the same file system.
pub(super) fn make_durable(root: &Root) -> Result<(), SyncError> {
    match root.sync() {
        Err(error) if matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOSYS | Errno::EPERM)) => {
            tracing::debug!("what was restored cannot be made durable at once: {error}");
            Ok(())
        }
        result => result.map_err(|error| SyncError::Local {
            act: "writing to the disk what is in",
            path: root.path().display().to_string(),
            error,
        }),
    }
}

/// What is to happen to a file of which a power loss has left a part; `None` if it is none.
pub(super) fn mend(seen: &Stat, entry: Option<&Entry>, there: Option<&There>) -> Option<Step> {
    let there = there?;
    is_remnant(seen, entry, there).then_some(match seen.size {
        0 => Step::Download,
        _ => Step::CopyLocalDownload,
    })
}

/// An edit is younger than what it replaces; what the disk has lost is not.
fn is_remnant(seen: &Stat, entry: Option<&Entry>, there: &There) -> bool {
    if seen.kind != Kind::File {
        return false;
    }
    let known = there.known.as_ref().filter(|known| !known.content.link && known.mtime_ns > 0);
    // A restore had put it there, and nothing here says so.
    let placed = known.is_some_and(|known| seen.size < known.content.size && seen.mtime_ns == known.mtime_ns);
    let was_here = entry.is_some_and(|entry| {
        let youngest = match (entry.stat, known) {
            (Some(stat), _) => Some(stat.mtime_ns),
            (None, Some(known)) => Some(known.mtime_ns),
            (None, None) => None,
        };
        // Sent by this box just before, so that no manifest knows its time.
        let no_younger = youngest.map_or(seen.size == 0 && entry.etag == there.etag, |youngest| seen.mtime_ns <= youngest);
        !entry.content.link && seen.size < entry.content.size && no_younger
    });
    placed || was_here
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::content::{Content, Digest};
    use crate::sync::manifest::FileEntry;
    use crate::sync::store::Etag;

    fn seen(size: u64, mtime_ns: i64) -> Stat {
        Stat {
            kind: Kind::File,
            size,
            mode: 0o644,
            mtime_ns,
            ctime_ns: 99,
            ino: 7,
            dev: 1,
        }
    }

    fn content(size: u64) -> Content {
        Content {
            sha256: Digest::of(&size.to_le_bytes()),
            size,
            mode: 0o644,
            link: false,
        }
    }

    fn there(size: u64, mtime_ns: Option<i64>) -> There {
        let etag = Etag("t".into());
        let known = mtime_ns.map(|mtime_ns| FileEntry {
            content: content(size),
            mtime_ns,
            etag: etag.clone(),
            packed: false,
        });
        There { etag, size, known }
    }

    fn entry(size: u64, stat: Option<Stat>) -> Entry {
        Entry {
            stat,
            content: content(size),
            etag: Etag("t".into()),
        }
    }

    #[test]
    fn what_is_shorter_and_no_younger_was_lost() {
        let known = entry(9, Some(seen(9, 50)));
        for (size, mtime_ns, step) in [
            (0, 50, Some(Step::Download)),
            (0, 40, Some(Step::Download)),
            (4, 50, Some(Step::CopyLocalDownload)),
            (0, 51, None),
            (9, 50, None),
            (12, 50, None),
        ] {
            assert_eq!(
                mend(&seen(size, mtime_ns), Some(&known), Some(&there(9, Some(10)))),
                step,
                "{size} {mtime_ns}"
            );
        }
        assert_eq!(mend(&seen(0, 50), Some(&known), None), None, "nothing there to bring");
        let link = Stat {
            kind: Kind::Link,
            ..seen(0, 50)
        };
        assert_eq!(mend(&link, Some(&known), Some(&there(9, Some(10)))), None);
    }

    #[test]
    fn without_an_entry_its_very_time_says_that_a_restore_put_it_there() {
        for (mtime_ns, known_ns, step) in [
            (50, Some(50), Some(Step::Download)),
            (49, Some(50), None),
            (51, Some(50), None),
            (0, Some(0), None),
            (50, None, None),
        ] {
            assert_eq!(
                mend(&seen(0, mtime_ns), None, Some(&there(9, known_ns))),
                step,
                "{mtime_ns} {known_ns:?}"
            );
        }
    }

    #[test]
    fn what_was_sent_and_is_in_no_manifest_yet() {
        assert_eq!(
            mend(&seen(0, 50), Some(&entry(9, None)), Some(&there(9, None))),
            Some(Step::Download)
        );
        assert_eq!(mend(&seen(4, 50), Some(&entry(9, None)), Some(&there(9, None))), None);
        assert_eq!(
            mend(&seen(0, 50), Some(&entry(9, None)), Some(&there(9, Some(40)))),
            None,
            "younger"
        );
    }
}
