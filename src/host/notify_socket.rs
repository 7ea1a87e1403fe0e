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

    /// The next message, if there is one. Descriptors that come with it are closed: that answers a `BARRIER=1`, for everything sent before
    /// it has been taken by then.
    pub(super) fn receive(&mut self) -> Option<Message> {
        let Self {
            by_path, by_name, buffer, ..
        } = self;
        receive(by_path, buffer).or_else(|| receive(by_name.as_ref()?, buffer))
    }
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
        let message = socket.receive().unwrap();
        assert_eq!((message.pid, &message.text[..]), (me, &b"READY=1"[..]));
        assert!(socket.receive().is_none());

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
        assert!(socket.receive().is_some());
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
        assert_eq!(socket.receive().unwrap().text, b"STATUS=here");
        assert!(socket.receive().is_none());
    }
}
