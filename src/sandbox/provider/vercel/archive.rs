//! A file as the API takes it: one entry of a gzipped tar.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{self, Read, Write};

const BLOCK: usize = 512;
/// The longest name of a ustar header without its prefix field.
const NAME: usize = 100;

/// Writes one file, to be unpacked below `/` at `path` (absolute, at most 100 bytes without its slash).
pub(super) fn pack(path: &str, mode: u32, size: u64, mut content: impl Read) -> io::Result<Vec<u8>> {
    let header = header(path.trim_start_matches('/'), mode, size)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name or the size does not fit into an archive"))?;
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&header)?;
    let copied = io::copy(&mut content.by_ref().take(size), &mut packed)?;
    if copied != size {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file became shorter while it was read",
        ));
    }
    let filled = usize::try_from(size % BLOCK as u64).expect("less than a block");
    packed.write_all(&vec![0; (BLOCK - filled) % BLOCK])?;
    packed.write_all(&[0; 2 * BLOCK])?;
    packed.finish()
}

/// A ustar header (POSIX.1-1988) of a regular file.
fn header(name: &str, mode: u32, size: u64) -> Option<[u8; BLOCK]> {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    let size = format!("{size:011o}");
    if name.is_empty() || name.len() > NAME || size.len() > 11 {
        return None;
    }
    put(0, name);
    put(100, &format!("{:07o}", mode & 0o7777));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &size);
    put(136, "00000000000");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// GNU tar is the second voice.
    #[test]
    fn tar_unpacks_it() {
        let dir = tempfile::tempdir().unwrap();
        for (size, mode) in [(0, 0o600), (1, 0o755), (511, 0o644), (512, 0o640), (513, 0o600), (70_000, 0o700)] {
            let content: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let packed = pack("/tmp/a file ä", mode, size, content.as_slice()).unwrap();
            let mut tar = Command::new("tar")
                .args(["-xzf", "-", "-C"])
                .arg(dir.path())
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            tar.stdin.take().unwrap().write_all(&packed).unwrap();
            assert!(tar.wait().unwrap().success(), "{size}");
            let file = dir.path().join("tmp/a file ä");
            assert_eq!(std::fs::read(&file).unwrap(), content);
            let kept = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions()) & 0o777;
            assert_eq!(kept, mode);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(pack(&format!("/{}", "x".repeat(101)), 0o600, 0, io::empty()).is_err());
        assert!(pack("/x", 0o600, 1 << 33, io::empty()).is_err());
        assert!(pack("/x", 0o600, 5, &b"1234"[..]).is_err(), "the file became shorter");
    }
}
