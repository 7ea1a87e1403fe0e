//! A compressed pack of the small files beside their objects, so that a cold box gets thousands of them in one request.
//!
//! It is rewritten only when nothing else is to be done (after ten quiet seconds, at drain, at the end of a flush by hand), after the
//! manifest has everything, and only when enough of it is stale: never by a flush that somebody waits for. It is never trusted beyond
//! digests: a file out of it counts only if the manifest has exactly this digest for an object that still has its token.
//!
//! The form: zstd over records of a 32-bit length, that many bytes of JSON (`{"path","size"}`), then the file's bytes.

use super::arrive::{Arrived, Progress, Wanted};
use super::beneath::Near;
use super::content::Digest;
use super::engine::Engine;
use super::error::SyncError;
use super::manifest::PackRef;
use super::path::TreePath;
use super::place::{Payload, Placed, Ready};
use super::read::{Reading, read};
use super::store::{Body, Condition, Info, StoreError, read_small};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

/// Where packs are, by digest.
pub const PACKS: &str = ".sandkeep/pack/";
/// Files up to this size are packed.
const SMALL: u64 = 64 << 10;
/// Fewer than this are not worth a pack, nor its download.
const LEAST: usize = 32;
/// The largest pack that is fetched.
const MOST: u64 = 256 << 20;
/// All that a pack may unpack to.
const MOST_UNPACKED: u64 = 2 << 30;

/// How much of a pack may be stale before it is written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// A fifth: what a pause between two edits is worth.
    Fifth,
    /// So few that fetching them one by one costs a cold box nothing.
    Few,
}

impl Allowed {
    const FEW: usize = 8;

    fn covers(self, stale: usize, all: usize) -> bool {
        match self {
            Self::Fifth => stale * 5 <= all,
            Self::Few => stale <= Self::FEW,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    path: TreePath,
    size: u32,
}

impl Engine {
    /// Writes the pack anew, and the manifest that names it, if more of it is stale than is allowed.
    pub async fn keep_pack(&mut self, allowed: Allowed) -> Result<(), SyncError> {
        self.refresh_pack(allowed).await?;
        if self.touched || self.repacked {
            self.write_manifest().await?;
        }
        Ok(())
    }

    async fn refresh_pack(&mut self, allowed: Allowed) -> Result<(), SyncError> {
        let small = || {
            self.manifest
                .files
                .iter()
                .filter(|(_, entry)| entry.content.size <= SMALL && !entry.content.link)
        };
        let count = small().count();
        let stale = small().filter(|(_, entry)| !entry.packed).count();
        let dead = self
            .manifest
            .pack
            .as_ref()
            .map_or(0, |pack| usize::try_from(pack.files).unwrap_or(0).saturating_sub(count - stale));
        if count < LEAST || allowed.covers(stale + dead, count) {
            return Ok(());
        }
        let paths: Vec<_> = small().map(|(path, _)| path.clone()).collect();
        let file = self.project.state.join("pack");
        let failed = |error: io::Error| SyncError::Local {
            act: "writing the pack",
            path: file.display().to_string(),
            error,
        };
        let packed = self.write_pack(&file, &paths).map_err(failed)?;
        self.check_lease().await?;
        let size = std::fs::metadata(&file).map_err(failed)?.len();
        let opened = Arc::new(std::fs::File::open(&file).map_err(failed)?);
        let sha256 = super::read::hash(&opened).map_err(failed)?;
        let body = if size <= super::store::s3::PART as u64 {
            Body::Bytes(std::fs::read(&file).map_err(failed)?.into())
        } else {
            Body::File {
                file: opened,
                size,
                sha256,
            }
        };
        let key = format!("{PACKS}{sha256}");
        match self.project.store.put(&key, body, Info::default(), Condition::Absent).await {
            Ok(_) | Err(StoreError::Precondition) => {}
            Err(error) => return Err(error.into()),
        }
        let _ = std::fs::remove_file(&file);
        self.manifest.files.values_mut().for_each(|entry| entry.packed = false);
        for path in &packed {
            if let Some(entry) = self.manifest.files.get_mut(path) {
                entry.packed = true;
            }
        }
        self.manifest.pack = Some(PackRef {
            key,
            sha256,
            size,
            files: packed.len() as u64,
        });
        self.repacked = true;
        Ok(())
    }

    /// Packs what is here exactly as the store has it.
    fn write_pack(&self, file: &std::path::Path, paths: &[TreePath]) -> io::Result<Vec<TreePath>> {
        let mut encoder = zstd::Encoder::new(io::BufWriter::new(std::fs::File::create(file)?), 3)?;
        let mut packed = Vec::with_capacity(paths.len());
        for path in paths {
            let Reading::Local(local) = read(&self.project.root, path) else {
                continue;
            };
            let Body::Bytes(bytes) = &local.body else { continue };
            if self
                .manifest
                .files
                .get(path)
                .is_none_or(|entry| entry.content.sha256 != local.content.sha256)
            {
                continue;
            }
            let header = serde_json::to_vec(&Header {
                path: path.clone(),
                size: u32::try_from(bytes.len()).map_err(io::Error::other)?,
            })?;
            encoder.write_all(&u32::try_from(header.len()).map_err(io::Error::other)?.to_le_bytes())?;
            encoder.write_all(&header)?;
            encoder.write_all(bytes)?;
            packed.push(path.clone());
        }
        encoder.finish()?.flush()?;
        Ok(packed)
    }

    /// Takes out of the pack what it has of the wanted files; gives the rest.
    pub(super) async fn unpack(
        &mut self,
        wanted: Vec<Wanted>,
        arrived: &mut Arrived,
        progress: &dyn Progress,
    ) -> Result<Vec<Wanted>, SyncError> {
        let Some(pack) = self.manifest.pack.clone() else {
            return Ok(wanted);
        };
        let is_packed = |wanted: &Wanted| wanted.there.known.as_ref().is_some_and(|known| known.packed);
        if wanted.iter().filter(|wanted| is_packed(wanted)).count() < LEAST {
            return Ok(wanted);
        }
        let bytes = match read_small(&*self.project.store, &pack.key, MOST).await {
            Ok(Some((_, bytes))) if Digest::of(&bytes) == pack.sha256 => bytes,
            Ok(_) => {
                tracing::warn!("the pack is gone or does not verify: files are fetched one by one");
                return Ok(wanted);
            }
            Err(error) if error.is_final() => return Err(error.into()),
            Err(_) => return Ok(wanted),
        };
        let (packed, mut rest): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|wanted| is_packed(wanted));
        let mut by_path: BTreeMap<TreePath, Wanted> = packed.into_iter().map(|wanted| (wanted.path.clone(), wanted)).collect();
        let mut reader = match zstd::Decoder::new(&*bytes) {
            Ok(decoder) => decoder.take(MOST_UNPACKED),
            Err(_) => {
                rest.extend(by_path.into_values());
                return Ok(rest);
            }
        };
        let mut near = Near::default();
        while let Ok(Some((path, content))) = next_record(&mut reader) {
            let Some(wanted) = by_path.remove(&path) else { continue };
            let Some(known) = wanted
                .there
                .known
                .clone()
                .filter(|known| known.content.sha256 == Digest::of(&content))
            else {
                rest.push(wanted);
                continue;
            };
            let size = known.content.size;
            let ready = Ready {
                mtime_ns: (known.mtime_ns > 0).then_some(known.mtime_ns),
                content: known.content,
                etag: known.etag,
                body: Payload::Memory(content.into()),
            };
            match self.place(&mut near, &wanted, ready).await? {
                Placed::Yes => {
                    arrived.downloaded += 1;
                    arrived.bytes += size;
                    progress.advance(1, size);
                }
                Placed::LocalWork => arrived.kept += 1,
                Placed::Refused(why) => {
                    arrived.refused.insert(wanted.path.to_string(), why);
                }
            }
        }
        rest.extend(by_path.into_values());
        Ok(rest)
    }
}

/// The next file of a pack; `None` at its end.
fn next_record(reader: &mut impl Read) -> io::Result<Option<(TreePath, Vec<u8>)>> {
    let mut length = [0; 4];
    match reader.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > 16 << 10 {
        return Err(io::Error::other("a header that long is none"));
    }
    let mut header = vec![0; length];
    reader.read_exact(&mut header)?;
    let header: Header = serde_json::from_slice(&header)?;
    if u64::from(header.size) > SMALL {
        return Err(io::Error::other("a file that large is not packed"));
    }
    let mut content = vec![0; header.size as usize];
    reader.read_exact(&mut content)?;
    Ok(Some((header.path, content)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = bytes.as_slice();
            while let Ok(Some(_)) = next_record(&mut reader) {}
        }
    }
}
