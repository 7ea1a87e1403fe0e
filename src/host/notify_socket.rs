//! Where units say that they are ready: datagrams with the kernel's word on who sent them. sd_notify(3), unix(7) SCM_CREDENTIALS.
//!
//! There are two doors to the same room: a path in the runtime directory for units of our own user, for every client can reach a path, and
//! an abstract name for units of other users, who may not enter the runtime directory. Both take messages from anyone; the host looks at
//! the sender's pid and drops what is not from a process of a unit.

use super::handover::HandedNotify;
use super::image::{Descriptor, Kept};
use crate::supervisor::event::Pid;
use nix::sys::socket::{self, ControlMessageOwned, MsgFlags, sockopt};
use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

/// The longest datagram that is taken; a longer one is dropped whole.
const LONGEST: usize = 64 * 1024;
/// As much as the kernel lets through at once. SCM_MAX_FD.
const MOST_DESCRIPTORS: usize = 253;
/// What may wait in the kernel while we are busy.
const BUFFERED: usize = 1 << 20;
/// How many messages wait for us at most, where the kernel does not tell.
const QUEUED: usize = 512;
/// The most that the kernel's word on that is taken for.
const MOST_QUEUED: usize = 4096;

/// A datagram and who sent it.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) pid: Pid,
    pub(super) text: Vec<u8>,
}

/// The socket, by path and by abstract name.
#[derive(Debug)]
pub(super) struct NotifySocket {
    by_path: UnixDatagram,
    by_name: Option<UnixDatagram>,
    path: PathBuf,
    name: String,
    buffer: Vec<u8>,
    queue: usize,
}

impl NotifySocket {
    /// Binds both. A stale file in the way is removed: the caller holds the instance's lock.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            Ok(()) | Err(_) => {}
        }
        let by_path = UnixDatagram::bind(path)?;
        prepare(&by_path)?;
        let name = format!("sandkeep/notify/{}", uuid::Uuid::new_v4().simple());
        // Where abstract names do not exist, units of other users have no socket, and say so by not becoming ready.
        let by_name = SocketAddr::from_abstract_name(&name)
            .and_then(|address| UnixDatagram::bind_addr(&address))
            .ok();
        if let Some(socket) = &by_name {
            prepare(socket)?;
        }
        Ok(Self {
            by_path,
            by_name,
            path: path.to_path_buf(),
            name,
            buffer: vec![0; LONGEST],
            queue: longest_queue(),
        })
    }

    /// Both stay open, for the next image.
    pub(super) fn hand_over(&self, kept: &mut Kept) -> HandedNotify {
        HandedNotify {
            by_path: kept.keep(&self.by_path),
            by_name: self.by_name.as_ref().map(|socket| kept.keep(socket)),
            path: self.path.clone(),
            name: self.name.clone(),
        }
    }

    /// The sockets of the image before this one, with what waits in them.
    pub(super) fn inherit(handed: &HandedNotify) -> io::Result<Self> {
        Ok(Self {
            by_path: handed.by_path.duplicate()?.into(),
            by_name: handed.by_name.map(Descriptor::duplicate).transpose()?.map(Into::into),
            path: handed.path.clone(),
            name: handed.name.clone(),
            buffer: vec![0; LONGEST],
            queue: longest_queue(),
        })
    }

    /// What units of our own user get as `NOTIFY_SOCKET`.
    pub(super) fn address(&self) -> OsString {
        self.path.clone().into()
    }

    /// What units of other users get as `NOTIFY_SOCKET`.
    pub(super) fn address_for_others(&self) -> OsString {
        format!("@{}", self.name).into()
    }

    /// Readable when there is a message.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(self.by_path.as_fd()), self.by_name.as_ref().map(AsFd::as_fd)]
            .into_iter()
            .flatten()
    }

    /// The next message of one round, if there is one. Descriptors that come with it are closed: that answers a `BARRIER=1`, for everything
    /// sent before it has been taken by then.
    pub(super) fn receive(&mut self, round: &mut Round) -> Option<Message> {
        let Self {
            by_path, by_name, buffer, ..
        } = self;
        let by_path = || receive(by_path, buffer);
        if let Some(message) = round.by_path.take(by_path) {
            return Some(message);
        }
        round.by_name.take(|| receive(by_name.as_ref()?, buffer))
    }

    /// As many messages as may wait at this moment: who has read so many has everything that was sent before it began, however fast
    /// somebody sends more.
    pub(super) fn round(&self) -> Round {
        let left = Left {
            messages: self.queue,
            empty: false,
        };
        Round {
            by_path: left,
            by_name: left,
        }
    }
}

/// How much of the two queues is still to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    by_path: Left,
    by_name: Left,
}

impl Round {
    /// Whether there may be more than was read.
    pub(super) fn is_cut(&self) -> bool {
        !(self.by_path.empty && self.by_name.empty)
    }
}

#[derive(Clone, Copy, Debug)]
struct Left {
    messages: usize,
    empty: bool,
}

impl Left {
    fn take(&mut self, receive: impl FnOnce() -> Option<Message>) -> Option<Message> {
        if self.empty || self.messages == 0 {
            return None;
        }
        self.messages -= 1;
        let message = receive();
        self.empty = message.is_none();
        message
    }
}

/// How many datagrams the kernel lets wait in a socket: unix(7), max_dgram_qlen. It takes one more than it says.
fn longest_queue() -> usize {
    let told = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen");
    let told = told.ok().and_then(|text| text.trim().parse::<usize>().ok());
    told.map_or(QUEUED, |most| most.min(MOST_QUEUED)) + 2
}

fn prepare(socket: &UnixDatagram) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket::setsockopt(socket, sockopt::PassCred, &true)?;
    // A smaller buffer only makes senders wait sooner.
    let _ = socket::setsockopt(socket, sockopt::RcvBuf, &BUFFERED);
    Ok(())
}

fn receive(socket: &UnixDatagram, buffer: &mut [u8]) -> Option<Message> {
    let mut control = nix::cmsg_space!(nix::sys::socket::UnixCredentials, [std::os::fd::RawFd; MOST_DESCRIPTORS]);
    loop {
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match socket::recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
            Ok(message) => message,
            Err(nix::Error::EINTR) => continue,
            Err(_) => return None,
        };
        let (length, whole) = (message.bytes, !message.flags.contains(MsgFlags::MSG_TRUNC));
        let sender = message.cmsgs().ok().and_then(|parts| parts.filter_map(take_part).last());
        if let (Some(pid), true) = (sender, whole) {
            return Some(Message {
                pid,
                text: buffer[..length].to_vec(),
            });
        }
    }
}

/// The sender, where this part names one; descriptors are closed.
fn take_part(part: ControlMessageOwned) -> Option<Pid> {
    match part {
        ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()).filter(|pid| *pid > 0),
        ControlMessageOwned::ScmRights(descriptors) => {
            for descriptor in descriptors {
                let _ = nix::unistd::close(descriptor);
            }
            None
        }
        _ => None,
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessage, UnixAddr, sendmsg};
    use std::io::{IoSlice, Read};

    #[test]
    fn messages_come_with_their_sender_and_barriers_are_closed() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("notify.sock");
        let mut socket = NotifySocket::bind(&path).unwrap();
        let me = Pid::try_from(std::process::id()).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        client.send_to(b"READY=1", &path).unwrap();
        let mut round = socket.round();
        let message = socket.receive(&mut round).unwrap();
        assert_eq!((message.pid, &message.text[..]), (me, &b"READY=1"[..]));
        assert!(round.is_cut());
        assert!(socket.receive(&mut round).is_none());
        assert!(!round.is_cut());

        let (mut ours, theirs) = std::io::pipe().unwrap();
        let address = UnixAddr::new(&path).unwrap();
        let rights = [theirs.as_raw_fd()];
        sendmsg(
            client.as_raw_fd(),
            &[IoSlice::new(b"BARRIER=1")],
            &[ControlMessage::ScmRights(&rights)],
            MsgFlags::empty(),
            Some(&address),
        )
        .unwrap();
        drop(theirs);
        let mut round = socket.round();
        assert!(socket.receive(&mut round).is_some());
        assert_eq!(ours.read(&mut [0]).unwrap(), 0, "the other end is closed");
    }

    #[test]
    fn the_abstract_name_leads_to_the_same_room_and_too_long_ones_are_dropped() {
        let base = tempfile::tempdir().unwrap();
        let mut socket = NotifySocket::bind(&base.path().join("n")).unwrap();
        let name = socket.address_for_others().into_string().unwrap();
        let address = SocketAddr::from_abstract_name(&name[1..]).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        client.send_to_addr(&vec![b'x'; LONGEST + 1], &address).unwrap();
        client.send_to_addr(b"STATUS=here", &address).unwrap();
        let mut round = socket.round();
        assert_eq!(socket.receive(&mut round).unwrap().text, b"STATUS=here");
        assert!(socket.receive(&mut round).is_none());
    }

    #[test]
    fn a_round_ends_however_much_is_sent_and_the_other_door_is_read_too() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("n");
        let mut socket = NotifySocket::bind(&path).unwrap();
        let name = socket.address_for_others().into_string().unwrap();
        let client = UnixDatagram::unbound().unwrap();
        client.send_to(b"flood", &path).unwrap();
        client
            .send_to_addr(b"other", &SocketAddr::from_abstract_name(&name[1..]).unwrap())
            .unwrap();
        let (mut round, mut read) = (socket.round(), Vec::new());
        while let Some(message) = socket.receive(&mut round) {
            // One more for each that is read: the queue is never empty.
            if message.text == b"flood" {
                client.send_to(b"flood", &path).unwrap();
            }
            read.push(message.text);
        }
        assert!(round.is_cut());
        assert_eq!(read.len(), socket.queue + 1);
        assert_eq!(read.last().unwrap(), b"other");
    }
}
