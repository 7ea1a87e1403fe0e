//! The form of the stat index on the disk: little-endian numbers, names after their length, in the order of the fields. It is read at
//! every start, for every file, which is why it is not JSON.

use super::{Entry, Index};
use crate::sync::beneath::{Kind, Stat};
use crate::sync::content::{Content, Digest};
use crate::sync::path::TreePath;
use crate::sync::store::Etag;
use std::collections::BTreeMap;

/// What it begins with; another one is another form.
const MAGIC: &[u8] = b"sandkeep index 3\n";
/// About what an entry takes.
const ENTRY: usize = 200;

pub(super) fn write(index: &Index) -> Vec<u8> {
    let mut out = Vec::with_capacity(ENTRY * (index.files.len() + index.beside.len() + 1));
    out.extend(MAGIC);
    number(&mut out, index.generation);
    number(&mut out, u64::from(index.restored));
    number(&mut out, index.root.0);
    number(&mut out, index.root.1);
    optional(&mut out, index.manifest.as_ref(), |out, etag| text(out, &etag.0));
    optional(&mut out, index.boot.as_ref(), |out, boot| text(out, boot));
    entries(&mut out, &index.files);
    entries(&mut out, &index.beside);
    number(&mut out, index.empty.len() as u64);
    index.empty.iter().for_each(|path| text(&mut out, path.as_str()));
    out
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend(number.to_le_bytes());
}

fn signed(out: &mut Vec<u8>, number: i64) {
    out.extend(number.to_le_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    number(out, text.len() as u64);
    out.extend(text.as_bytes());
}

fn optional<T>(out: &mut Vec<u8>, value: Option<T>, write: impl Fn(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        write(out, value);
    }
}

fn entries(out: &mut Vec<u8>, entries: &BTreeMap<TreePath, Entry>) {
    number(out, entries.len() as u64);
    for (path, Entry { stat, content, etag }) in entries {
        text(out, path.as_str());
        text(out, &etag.0);
        out.extend(content.sha256.as_bytes());
        number(out, content.size);
        number(out, u64::from(content.mode));
        out.push(u8::from(content.link));
        optional(out, stat.as_ref(), |out, stat| {
            out.push(match stat.kind {
                Kind::File => 0,
                Kind::Link => 1,
                Kind::Directory => 2,
                Kind::Special => 3,
            });
            number(out, u64::from(stat.mode));
            [stat.size, stat.ino, stat.dev].into_iter().for_each(|value| number(out, value));
            [stat.mtime_ns, stat.ctime_ns].into_iter().for_each(|value| signed(out, value));
        });
    }
}

/// `None` when it is of another form.
pub(super) fn read(body: &[u8]) -> Option<Index> {
    let mut rest = Rest(body.strip_prefix(MAGIC)?);
    Some(Index {
        generation: rest.number()?,
        restored: rest.number()? == 1,
        root: (rest.number()?, rest.number()?),
        manifest: rest.optional(|rest| rest.text().map(|etag| Etag(etag.to_owned())))?,
        boot: rest.optional(|rest| rest.text().map(str::to_owned))?,
        files: rest.entries()?,
        beside: rest.entries()?,
        empty: (0..rest.number()?).map(|_| rest.path()).collect::<Option<_>>()?,
    })
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn signed(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn mode(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.number()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn path(&mut self) -> Option<TreePath> {
        TreePath::parse(self.text()?).ok()
    }

    fn optional<T>(&mut self, read: impl Fn(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.byte()? {
            0 => Some(None),
            _ => read(self).map(Some),
        }
    }

    fn entries(&mut self) -> Option<BTreeMap<TreePath, Entry>> {
        (0..self.number()?).map(|_| Some((self.path()?, self.entry()?))).collect()
    }

    fn entry(&mut self) -> Option<Entry> {
        let etag = Etag(self.text()?.to_owned());
        let content = Content {
            sha256: Digest::from_bytes(self.array()?),
            size: self.number()?,
            mode: self.mode()?,
            link: self.byte()? == 1,
        };
        let stat = self.optional(Self::stat)?;
        Some(Entry { stat, content, etag })
    }

    fn stat(&mut self) -> Option<Stat> {
        let kind = match self.byte()? {
            0 => Kind::File,
            1 => Kind::Link,
            2 => Kind::Directory,
            _ => Kind::Special,
        };
        Some(Stat {
            kind,
            mode: self.mode()?,
            size: self.number()?,
            ino: self.number()?,
            dev: self.number()?,
            mtime_ns: self.signed()?,
            ctime_ns: self.signed()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn entry()(kind in 0_u8..5, numbers in any::<[u64; 5]>(), times in any::<[i64; 2]>(), digest in any::<[u8; 32]>(), link in any::<bool>(), etag in "\\PC{0,40}") -> Entry {
            let mode = u32::try_from(numbers[0] & 0o777).expect("small");
            let kind = match kind { 0 => Some(Kind::File), 1 => Some(Kind::Link), 2 => Some(Kind::Directory), 3 => Some(Kind::Special), _ => None };
            let stat = kind.map(|kind| Stat { kind, mode, size: numbers[1], ino: numbers[2], dev: numbers[3], mtime_ns: times[0], ctime_ns: times[1] });
            Entry { stat, content: Content { sha256: Digest::from_bytes(digest), size: numbers[4], mode, link }, etag: Etag(etag) }
        }
    }

    proptest! {
        #[test]
        fn it_goes_both_ways(
            files in proptest::collection::btree_map("[a-zü]{1,9}(/[a-z ]{1,9}){0,3}", entry(), 0..9),
            beside in proptest::collection::btree_map("[a-z]{1,9}", entry(), 0..3),
            empty in proptest::collection::btree_set("[a-z]{1,9}", 0..3),
            manifest in proptest::option::of("\\PC{0,40}"),
            boot in proptest::option::of("\\PC{0,40}"),
            numbers in any::<[u64; 3]>(),
            restored in any::<bool>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let path = |name: &str| TreePath::parse(name).expect("good");
            let index = Index {
                generation: numbers[0],
                restored,
                root: (numbers[1], numbers[2]),
                manifest: manifest.map(Etag),
                boot,
                files: files.into_iter().map(|(name, entry)| (path(&name), entry)).collect(),
                beside: beside.into_iter().map(|(name, entry)| (path(&name), entry)).collect(),
                empty: empty.iter().map(|name| path(name)).collect(),
            };
            let written = write(&index);
            prop_assert_eq!(read(&written), Some(index));
            prop_assert_eq!(read(&written[..cut.index(written.len())]), None);
        }
    }
}
