//! The files seen from the side that reads, while someone may be writing and rotating them.

use super::format::{self, ENTRY_LEN, Entry, Stream};
use crate::ordered::Order;
use crate::unit::Name;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

/// Index entries that are read at once.
const BLOCK: usize = 256;
/// Files' times are no finer than this.
const TICK: Duration = Duration::from_millis(50);
/// Attempts to open a pair of files that is being rotated.
const ATTEMPTS: usize = 20;

/// The units that have logs, and the rotated generations of each, oldest first.
pub(super) fn units(dir: &Path) -> io::Result<BTreeMap<Name, Vec<u64>>> {
    let mut found: BTreeMap<Name, Vec<u64>> = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        if let Some((unit, generation)) = entry?.file_name().to_str().and_then(format::parse_log_name) {
            found.entry(unit).or_default().extend(generation);
        }
    }
    found.values_mut().for_each(|generations| generations.order());
    Ok(found)
}

/// The generations that are there, oldest first, of those that were listed and the current one. A directory that changes while it is read
/// may be seen in part; generations are numbered one after the other, so that what stands before each of them is asked for by name.
pub(super) fn all(dir: &Path, unit: &Name, listed: &[u64], current: Option<u64>) -> Vec<u64> {
    let mut found: BTreeSet<u64> = listed.iter().copied().collect();
    for mut id in listed.iter().copied().chain(current) {
        while id > 1 && !found.contains(&(id - 1)) && dir.join(format::log_name(unit, Some(id - 1))).exists() {
            id -= 1;
            found.insert(id);
        }
    }
    found.into_iter().collect()
}

/// When files were last added, renamed or removed; `None` when that is so recent that the time may not tell it from the next.
pub(super) fn changed(dir: &Path) -> Option<(i64, i64)> {
    let metadata = std::fs::metadata(dir).ok()?;
    let age = metadata.modified().ok()?.elapsed().ok()?;
    (age > TICK).then(|| (metadata.mtime(), metadata.mtime_nsec()))
}

/// One log and its index.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) id: u64,
    pub(super) log: File,
    index: Option<File>,
    /// The device and inode of the index when it was the current one.
    identity: Option<(u64, u64)>,
    /// For bytes that no entry covers.
    fallback: Entry,
    block: Vec<u8>,
    block_at: usize,
}

/// How far the files went at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) size: u64,
    pub(super) entries: usize,
}

impl Generation {
    /// The current one; `None` when the unit has written nothing.
    pub(super) fn current(dir: &Path, unit: &Name, rotated: &[u64]) -> io::Result<Option<Self>> {
        let next = rotated.last().map_or(1, |g| g + 1);
        let log_path = dir.join(format::log_name(unit, None));
        let index_path = dir.join(format::index_name(unit, None));
        for _ in 0..ATTEMPTS {
            let index = opened(&index_path)?;
            let Some(log) = opened(&log_path)? else {
                if index.is_some() {
                    std::thread::yield_now();
                    continue;
                }
                return Ok(None);
            };
            let identity = index.as_ref().map(identity).transpose()?;
            // Between the two opens the pair may have been rotated away.
            if opened(&index_path)?.as_ref().map(self::identity).transpose()? != identity {
                continue;
            }
            let id = index.as_ref().and_then(generation_of).unwrap_or(next);
            return Self::new(id, log, index, identity).map(Some);
        }
        // An index without a log: the disk was full at that very moment.
        Ok(None)
    }

    /// One that was rotated away; `None` when it is there no longer.
    pub(super) fn rotated(dir: &Path, unit: &Name, id: u64) -> io::Result<Option<Self>> {
        let Some(log) = opened(&dir.join(format::log_name(unit, Some(id))))? else {
            return Ok(None);
        };
        let index = opened(&dir.join(format::index_name(unit, Some(id))))?;
        Self::new(id, log, index, None).map(Some)
    }

    /// The one of this id, or the oldest after it; `None` when there is none.
    pub(super) fn at_or_after(dir: &Path, unit: &Name, id: u64) -> io::Result<Option<Self>> {
        for _ in 0..ATTEMPTS {
            if let Some(generation) = Self::rotated(dir, unit, id)? {
                return Ok(Some(generation));
            }
            let current = Self::current(dir, unit, &[])?;
            if current.as_ref().is_some_and(|c| c.id == id) {
                return Ok(current);
            }
            let listed = units(dir)?.remove(unit).unwrap_or_default();
            let rotated = all(dir, unit, &listed, current.as_ref().map(|c| c.id));
            let Some(oldest) = rotated.into_iter().find(|g| *g >= id) else {
                return Ok(current.filter(|c| c.id >= id));
            };
            // What was rotated away between the two looks is in the list by now, and `current` is the older one.
            if current.as_ref().is_some_and(|c| (id..=oldest).contains(&c.id)) {
                return Ok(current);
            }
            if let Some(generation) = Self::rotated(dir, unit, oldest)? {
                return Ok(Some(generation));
            }
        }
        Ok(None)
    }

    fn new(id: u64, log: File, index: Option<File>, identity: Option<(u64, u64)>) -> io::Result<Self> {
        let changed = log.metadata()?;
        let fallback = Entry {
            offset: 0,
            wall: changed.mtime().saturating_mul(1_000_000_000).saturating_add(changed.mtime_nsec()),
            monotonic: 0,
            invocation: 0,
            source: u32::MAX,
            stream: Stream::Stdout,
            flags: 0,
        };
        Ok(Self {
            id,
            log,
            index,
            identity,
            fallback,
            block: Vec::new(),
            block_at: usize::MAX,
        })
    }

    /// The length first, the index afterwards: entries are written before their bytes, so every byte has its entry.
    pub(super) fn extent(&mut self) -> io::Result<Extent> {
        let size = self.log.metadata()?.len();
        let index = match &self.index {
            Some(index) => index.metadata()?.len(),
            None => 0,
        };
        let entries = usize::try_from(index / ENTRY_LEN as u64).unwrap_or(usize::MAX).saturating_sub(1);
        Ok(Extent { size, entries })
    }

    /// The n-th index entry. Past the end, and where there is no index: what stands in for one.
    pub(super) fn entry(&mut self, n: usize) -> io::Result<Entry> {
        let block = n / BLOCK;
        let at = n % BLOCK * ENTRY_LEN;
        if self.block_at != block || self.block.len() < at + ENTRY_LEN {
            let Some(index) = &self.index else { return Ok(self.fallback) };
            self.block.resize(BLOCK * ENTRY_LEN, 0);
            let from = ((block * BLOCK + 1) * ENTRY_LEN) as u64;
            let length = read_at_most(index, &mut self.block, from)?;
            self.block.truncate(length - length % ENTRY_LEN);
            self.block_at = block;
        }
        let bytes = self.block.get(at..at + ENTRY_LEN).and_then(|b| b.first_chunk());
        Ok(bytes.map_or(self.fallback, Entry::decode))
    }

    /// The number of the first entry for which `after` does not hold; the entries before it are those for which it holds.
    pub(super) fn partition(&mut self, extent: Extent, holds: impl Fn(&Entry) -> bool) -> io::Result<usize> {
        let (mut low, mut high) = (0, extent.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            if holds(&self.entry(middle)?) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Whether this is still the file that is written to.
    pub(super) fn is_current(&self, dir: &Path, unit: &Name) -> io::Result<bool> {
        let Some(was) = self.identity else { return Ok(false) };
        let now = opened(&dir.join(format::index_name(unit, None)))?;
        Ok(now.as_ref().map(identity).transpose()? == Some(was))
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn opened(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io::Error::new(e.kind(), format!("opening {}: {e}", path.display()))),
    }
}

fn generation_of(index: &File) -> Option<u64> {
    let mut header = [0; ENTRY_LEN];
    index.read_exact_at(&mut header, 0).ok()?;
    format::decode_header(&header)
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_at_most(file: &File, buffer: &mut [u8], from: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], from + length as u64) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_listing_missed_is_found_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, unit) = (folder.path(), Name::new("dev").unwrap());
        for id in 3..9 {
            std::fs::write(dir.join(format::log_name(&unit, Some(id))), "").unwrap();
        }
        let whole: Vec<u64> = (3..9).collect();
        for listed in [&[][..], &[3], &[4, 7], &[8], &whole] {
            assert_eq!(all(dir, &unit, listed, Some(9)), whole, "{listed:?}");
        }
        assert_eq!(all(dir, &unit, &[8], None), whole);
        assert_eq!(all(dir, &unit, &[], Some(1)), [0; 0]);
        assert_eq!(Generation::at_or_after(dir, &unit, 1).unwrap().unwrap().id, 3);
        assert!(Generation::at_or_after(dir, &unit, 9).unwrap().is_none());
    }
}
