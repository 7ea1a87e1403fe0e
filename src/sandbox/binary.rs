//! The binary that goes into a sandbox: what machine it is for, and its digest.

use super::fault::{Code, Fault};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The binary that runs here, also after its file was replaced.
const OWN: &str = "/proc/self/exe";

/// A binary that can be brought in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binary {
    /// Where it is, on this machine.
    pub(super) path: PathBuf,
    /// Its SHA-256, hex.
    pub(super) sha256: String,
    /// `x86_64`, `aarch64`, …, as `uname -m` has it.
    pub(super) machine: String,
    /// Bytes.
    pub(super) size: u64,
}

/// Which file it is: device, inode, size, and when it was changed.
type Identity = (u64, u64, u64, i64, i64);

/// The last one that was read: a server starts many sandboxes with the same.
static LAST: Mutex<Option<(Identity, Binary)>> = Mutex::new(None);

impl Binary {
    /// Reads it; without a path the one that runs here. Blocks.
    pub(super) fn read(path: Option<&Path>) -> Result<Self, Fault> {
        let path = path.unwrap_or(Path::new(OWN));
        let failed = |error: io::Error| {
            Fault::new(Code::BadRequest, format!("reading the binary `{}`: {error}", path.display()))
                .hint("`--binary FILE` names a static sandkeep for the sandbox's machine")
        };
        let mut file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        let identity = (about.dev(), about.ino(), about.size(), about.mtime(), about.mtime_nsec());
        let mut last = LAST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((known, binary)) = &*last
            && *known == identity
            && binary.path == path
        {
            return Ok(binary.clone());
        }
        let mut digest = Sha256::new();
        let mut head = [0; 20];
        file.read_exact(&mut head).map_err(failed)?;
        let Some(machine) = machine(&head) else {
            return Err(Fault::new(Code::BadRequest, format!("`{}` is no Linux program", path.display()))
                .hint("`--binary FILE` names a static sandkeep for the sandbox's machine"));
        };
        digest.update(head);
        let mut chunk = vec![0; 1 << 20];
        loop {
            match file.read(&mut chunk).map_err(failed)? {
                0 => break,
                length => digest.update(&chunk[..length]),
            }
        }
        let binary = Self {
            path: path.to_owned(),
            sha256: digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            machine: machine.to_owned(),
            size: about.size(),
        };
        *last = Some((identity, binary.clone()));
        Ok(binary)
    }

    /// Whether it runs on a machine of this kind.
    pub(super) fn check(&self, machine: &str) -> Result<(), Fault> {
        let same = self.machine == machine
            || (self.machine == "x86_64" && machine == "amd64")
            || (self.machine == "aarch64" && machine == "arm64");
        if same {
            return Ok(());
        }
        Err(Fault::new(
            Code::WrongArchitecture,
            format!("the binary is for {}, the sandbox is {machine}", self.machine),
        )
        .hint(format!("`--binary FILE` with a sandkeep built for {machine}")))
    }
}

/// The machine of an ELF header. elf(5)
fn machine(head: &[u8; 20]) -> Option<&'static str> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let number = if head[5] == 2 {
        u16::from_be_bytes([head[18], head[19]])
    } else {
        u16::from_le_bytes([head[18], head[19]])
    };
    Some(match number {
        3 => "i686",
        22 => "s390x",
        21 => "ppc64le",
        40 => "armv7l",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        _ => "another machine",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_binary_is_for_this_machine() {
        let own = Binary::read(None).unwrap();
        assert_eq!((own.machine.as_str(), own.sha256.len()), (std::env::consts::ARCH, 64));
        own.check(std::env::consts::ARCH).unwrap();
        assert_eq!(own.check("sparc64").unwrap_err().code, Code::WrongArchitecture);
        assert_eq!(Binary::read(None).unwrap(), own);
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "#!/bin/sh\necho not a program at all\n").unwrap();
        assert_eq!(Binary::read(Some(file.path())).unwrap_err().code, Code::BadRequest);
        assert_eq!(Binary::read(Some(Path::new("/nonexistent"))).unwrap_err().code, Code::BadRequest);
    }
}
