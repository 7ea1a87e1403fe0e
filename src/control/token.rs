//! The bearer token of the TCP door.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The token, kept as what is needed to recognise it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Token {
    digest: [u8; 32],
    cookie: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// The token with this text.
    pub fn new(text: &str) -> Self {
        Self {
            digest: Sha256::digest(text).into(),
            cookie: hex(&Sha256::digest(format!("sandkeep page\0{text}"))),
        }
    }

    /// The token in this file; where there is none, a random one is written there, readable by us alone.
    pub fn in_file(path: &Path) -> io::Result<Self> {
        match read_private(path) {
            Ok(text) if text.len() >= 32 => return Ok(Self::new(&text)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let text = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let fresh = path.with_extension("new");
        let _ = std::fs::remove_file(&fresh);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        writeln!(file, "{text}")?;
        std::fs::rename(&fresh, path)?;
        Ok(Self::new(&text))
    }

    /// Whether this is the token. Takes the same time wherever they differ.
    pub fn is(&self, text: &str) -> bool {
        same(&Sha256::digest(text), &self.digest)
    }

    /// What a browser that has shown the token keeps as its cookie: good for reading, and no way back to the token.
    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    /// Whether this is the cookie.
    pub fn is_cookie(&self, text: &str) -> bool {
        same(&Sha256::digest(text), &Sha256::digest(&self.cookie))
    }
}

fn read_private(path: &Path) -> io::Result<String> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    is_ours_alone(&file)?;
    let mut text = String::new();
    (&mut file).take(1024).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

fn is_ours_alone(file: &File) -> io::Result<()> {
    let found = file.metadata()?;
    if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o077 != 0 {
        let why = format!(
            "the token file belongs to uid {} with mode {:03o}: remove it",
            found.uid(),
            found.mode() & 0o777
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(())
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y))) == 0
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_itself_alone() {
        let token = Token::new("secret");
        assert!(token.is("secret"));
        assert!(!token.is("secre"));
        assert!(!token.is(""));
        assert!(!token.is(token.cookie()));
        assert!(token.is_cookie(token.cookie()));
        assert!(!token.is_cookie("secret"));
    }

    #[test]
    fn a_random_one_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let made = Token::in_file(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(made.is(text.trim()));
        assert!(Token::in_file(&path).unwrap().is(text.trim()));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(Token::in_file(&path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
