//! A file on its way: packed by a thread while it is sent, and unpacked over there while it arrives.

use crate::sandbox::provider::{Body, Secret};
use crate::tasks;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::File;
use std::io::{self, Read, Write};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

/// Asks a box what it can unpack; one word or nothing.
pub(super) const LOOK: &str =
    "if zstd --version >/dev/null 2>&1; then echo zstd; elif command -v gzip >/dev/null 2>&1; then echo gzip; fi; exit 0";

/// How much is read, and sent, at once.
const CHUNK: usize = 256 << 10;
/// How many chunks may wait for a slow connection.
const WAITING: usize = 8;
/// Takes as long as gzip's usual level, for a tenth less.
const ZSTD_LEVEL: i32 = 6;

/// How a file travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Zstd,
    Gzip,
    Plain,
}

impl Packing {
    /// What the answer to [`LOOK`] stands for.
    pub(super) fn found(answer: &str) -> Self {
        match answer.trim() {
            "zstd" => Self::Zstd,
            "gzip" => Self::Gzip,
            _ => Self::Plain,
        }
    }

    /// The command that undoes it, from standard input to standard output.
    pub(super) fn unpack(self) -> &'static str {
        match self {
            Self::Zstd => "zstd -dcq",
            Self::Gzip => "gzip -dc",
            Self::Plain => "cat",
        }
    }
}

/// A file that is being packed.
#[derive(Debug)]
pub(super) struct Packed {
    /// How many bytes it is once it is unpacked.
    pub(super) size: u64,
    /// What is to be sent. Dropped, it ends the work.
    pub(super) chunks: Receiver<Bytes>,
    /// How many bytes that were, once all is taken; a broken pipe if it was not.
    pub(super) work: JoinHandle<io::Result<u64>>,
}

impl Packed {
    /// Opens it and begins.
    pub(super) fn start(body: &Body, packing: Packing) -> io::Result<Self> {
        let (content, size): (Box<dyn Read + Send>, u64) = match body {
            Body::Bytes(secret) => (Box::new(Owned(secret.clone(), 0)), secret.reveal().len() as u64),
            Body::File(path) => {
                let file = File::open(path)?;
                let size = file.metadata()?.len();
                (Box::new(file), size)
            }
        };
        let (sender, chunks) = channel(WAITING);
        let work = tasks::spawn_blocking(move || pack(content, size, packing, Parcel::new(sender)));
        Ok(Self { size, chunks, work })
    }
}

/// Packs so many bytes; answers how many were sent.
fn pack(content: Box<dyn Read + Send>, size: u64, packing: Packing, parcel: Parcel) -> io::Result<u64> {
    let parcel = match packing {
        Packing::Plain => copy(content, size, parcel)?,
        Packing::Gzip => copy(content, size, GzEncoder::new(parcel, Compression::default()))?.finish()?,
        Packing::Zstd => copy(content, size, zstd::Encoder::new(parcel, ZSTD_LEVEL)?)?.finish()?,
    };
    parcel.finish()
}

/// Copies exactly so many bytes: more may be there by now, less is an error.
fn copy<W: Write>(content: impl Read, size: u64, mut to: W) -> io::Result<W> {
    let mut content = io::BufReader::with_capacity(CHUNK, content.take(size));
    if io::copy(&mut content, &mut to)? == size {
        return Ok(to);
    }
    Err(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the file became shorter while it was read",
    ))
}

/// Bytes in memory, read from where one is.
struct Owned(Secret, usize);

impl Read for Owned {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (&self.0.reveal()[self.1..]).read(buffer)?;
        self.1 += length;
        Ok(length)
    }
}

/// Gathers chunks, and hands them over as far as they are taken.
struct Parcel {
    sender: Sender<Bytes>,
    gathered: BytesMut,
    sent: u64,
}

impl Parcel {
    fn new(sender: Sender<Bytes>) -> Self {
        Self {
            sender,
            gathered: BytesMut::with_capacity(CHUNK),
            sent: 0,
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let chunk = self.gathered.split().freeze();
        let length = chunk.len() as u64;
        self.sender.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.sent += length;
        Ok(())
    }

    fn finish(mut self) -> io::Result<u64> {
        self.send()?;
        Ok(self.sent)
    }
}

impl Write for Parcel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= CHUNK {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// What arrives where a file of this content is sent, and how many bytes travelled.
    async fn arrived(content: &[u8], packing: Packing) -> (Vec<u8>, u64, u64) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let mut packed = Packed::start(&Body::File(file.path().to_owned()), packing).unwrap();
        let mut travelled = Vec::new();
        while let Some(chunk) = packed.chunks.recv().await {
            travelled.extend_from_slice(&chunk);
        }
        let sent = packed.work.await.unwrap().unwrap();
        assert_eq!((packed.size, sent), (content.len() as u64, travelled.len() as u64));
        let mut packed = tempfile::tempfile().unwrap();
        packed.write_all(&travelled).unwrap();
        io::Seek::rewind(&mut packed).unwrap();
        let unpacking = Command::new("sh")
            .args(["-c", packing.unpack()])
            .stdin(packed)
            .stdout(Stdio::piped())
            .output();
        (unpacking.unwrap().stdout, content.len() as u64, sent)
    }

    /// The programs of this machine are the second voice.
    #[tokio::test]
    async fn it_arrives_as_it_was() {
        let said = Command::new("sh").args(["-c", LOOK]).output().unwrap();
        let best = Packing::found(&String::from_utf8(said.stdout).unwrap());
        for size in [0, 1, CHUNK - 1, CHUNK, 3 * CHUNK + 7] {
            let content: Vec<u8> = (0..size).map(|at| u8::try_from(at * at / 7 % 251).unwrap()).collect();
            for packing in [best, Packing::Gzip, Packing::Plain] {
                let (same, whole, sent) = arrived(&content, packing).await;
                assert!(same == content, "{packing:?}, {size} bytes");
                assert!(
                    packing == Packing::Plain || size < CHUNK || sent < whole,
                    "{packing:?}: {sent} of {whole}"
                );
            }
        }
    }

    #[tokio::test]
    async fn what_nobody_takes_ends_by_itself() {
        let much = Secret::new(vec![7; 2 * WAITING * CHUNK + 2 * CHUNK]);
        let packed = Packed::start(&Body::Bytes(much), Packing::Plain).unwrap();
        drop(packed.chunks);
        assert_eq!(packed.work.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_file_that_becomes_shorter_is_an_error() {
        let (sender, mut chunks) = channel(WAITING);
        let work = tokio::task::spawn_blocking(move || pack(Box::new(&b"1234"[..]), 5, Packing::Plain, Parcel::new(sender)));
        while chunks.recv().await.is_some() {}
        assert_eq!(work.await.unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
