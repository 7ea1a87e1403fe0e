//! Reading a file so that what was hashed is what is sent, or saying that it changed meanwhile.

use super::beneath::{Kind, Root, Stat, is_absent};
use super::content::{Content, Digest};
use super::path::TreePath;
use super::store::Body;
use super::store::s3::PART;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const SPECIAL: &str = "it is neither a file nor a link";

/// A file as it was between two equal looks at it.
#[derive(Debug)]
pub struct Local {
    /// The look.
    pub stat: Stat,
    /// What was in it.
    pub content: Content,
    /// Its bytes, or the file where they are many.
    pub body: Body,
    /// When it was read, nanoseconds since the epoch.
    pub read_at_ns: i64,
}

/// What a path turned out to be.
#[derive(Debug)]
pub enum Reading {
    /// A file or link.
    Local(Box<Local>),
    /// Nothing.
    Gone,
    /// It changed while it was read; to be read again later.
    Changing,
    /// It cannot be kept, with the reason.
    Odd(String),
}

/// Reads a file or link.
pub fn read(root: &Root, path: &TreePath) -> Reading {
    // Most are files, which are opened at once: only what cannot be is looked at first.
    let result = read_file(root, path).or_else(|error| match root.lstat(path)?.map(|stat| stat.kind) {
        None => Ok(Reading::Gone),
        Some(Kind::Special) => Ok(Reading::Odd(SPECIAL.into())),
        Some(Kind::Link) => read_link(root, path),
        Some(Kind::File | Kind::Directory) => Err(error),
    });
    match result {
        Ok(reading) => reading,
        Err(error) if is_absent(&error) => Reading::Changing,
        Err(error) => Reading::Odd(format!("it cannot be read: {error}")),
    }
}

fn read_file(root: &Root, path: &TreePath) -> io::Result<Reading> {
    let mut file = root.open_file(path)?;
    let before = Stat::of(&file)?;
    match before.kind {
        Kind::File => {}
        Kind::Directory => return Ok(Reading::Gone),
        Kind::Special | Kind::Link => return Ok(Reading::Odd(SPECIAL.into())),
    }
    let read_at_ns = now_ns();
    let (digest, body) = if before.size <= PART as u64 {
        let mut bytes = Vec::with_capacity(usize::try_from(before.size).unwrap_or(0) + 1);
        (&mut file).take(PART as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != before.size {
            return Ok(Reading::Changing);
        }
        (Digest::of(&bytes), Body::Bytes(bytes.into()))
    } else {
        let sha256 = hash(&file)?;
        let body = Body::File {
            file: Arc::new(file.try_clone()?),
            size: before.size,
            sha256,
        };
        (sha256, body)
    };
    if Stat::of(&file)? != before {
        return Ok(Reading::Changing);
    }
    let content = Content {
        sha256: digest,
        size: before.size,
        mode: before.mode,
        link: false,
    };
    Ok(Reading::Local(Box::new(Local {
        stat: before,
        content,
        body,
        read_at_ns,
    })))
}

fn read_link(root: &Root, path: &TreePath) -> io::Result<Reading> {
    let read_at_ns = now_ns();
    let target = root.read_link(path)?;
    let Some(stat) = root.lstat(path)?.filter(|stat| stat.kind == Kind::Link) else {
        return Ok(Reading::Changing);
    };
    let Some(target) = target.to_str() else {
        return Ok(Reading::Odd("the link's target is not UTF-8".into()));
    };
    if !stays_inside(path, target) {
        return Ok(Reading::Odd(format!("the link leads out of the project, to `{target}`")));
    }
    let content = Content {
        sha256: Digest::of(target.as_bytes()),
        size: target.len() as u64,
        mode: 0o777,
        link: true,
    };
    Ok(Reading::Local(Box::new(Local {
        stat,
        content,
        body: Body::Bytes(target.to_owned().into()),
        read_at_ns,
    })))
}

/// Whether a link's target, read as text, stays below the root.
pub fn stays_inside(path: &TreePath, target: &str) -> bool {
    let mut depth = path.as_str().matches('/').count();
    for component in Path::new(target).components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    !target.is_empty()
}

/// The digest of what is in a file.
pub fn hash(file: &File) -> io::Result<Digest> {
    let (mut buffer, mut at, mut hasher) = (vec![0; 1 << 20], 0, Sha256::new());
    loop {
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            return Ok(Digest::finish(hasher));
        }
        hasher.update(&buffer[..read]);
        at += read as u64;
    }
}

/// Nanoseconds since the epoch.
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        let path = TreePath::parse("a/b/link").expect("good");
        for (target, inside) in [
            ("x", true),
            ("../x", true),
            ("../../x", true),
            ("../../../x", false),
            ("/etc/passwd", false),
            ("x/../../../..", false),
            ("", false),
        ] {
            assert_eq!(stays_inside(&path, target), inside, "{target}");
        }
    }

    #[test]
    fn a_large_file_is_read_by_its_parts() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("big"), vec![7; PART + 5]).expect("written");
        let root = Root::open(directory.path()).expect("opened");
        let Reading::Local(local) = read(&root, &TreePath::parse("big").expect("good")) else {
            panic!("it is a file")
        };
        assert!(matches!(local.body, Body::File { size, .. } if size == PART as u64 + 5));
        assert_eq!(local.content.sha256, Digest::of(&vec![7; PART + 5]));
    }
}
