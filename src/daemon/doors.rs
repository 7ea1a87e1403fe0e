//! The two doors' listening sockets: kept beside the tasks that serve them, so that they stay open when nobody accepts for a moment.

use super::start::{DaemonError, listen, starting};
use crate::control::DaemonHandle;
use crate::control::doors::{self, Limits};
use crate::control::token::Token;
use crate::tasks;
use nix::sys::socket::{self, Backlog, Shutdown};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use tokio::task::AbortHandle;

/// The doors.
#[derive(Debug)]
pub(super) struct Doors {
    pub(super) unix: UnixListener,
    pub(super) tcp: Option<(SocketAddr, TcpListener)>,
    pub(super) token: Token,
    open: bool,
    serving_unix: Option<AbortHandle>,
    serving_tcp: Option<AbortHandle>,
}

impl Doors {
    pub(super) fn new(unix: UnixListener, tcp: Option<(SocketAddr, TcpListener)>, token: Token) -> Self {
        Self {
            unix,
            tcp,
            token,
            open: false,
            serving_unix: None,
            serving_tcp: None,
        }
    }

    /// Takes connections from here on. Must be called within a runtime.
    pub(super) fn open(&mut self, handle: &DaemonHandle) -> io::Result<()> {
        let unix = tokio::net::UnixListener::from_std(self.unix.try_clone()?)?;
        let serve = doors::serve_unix(unix, handle.clone(), handle.unit_of(), Limits::default());
        self.serving_unix = Some(tasks::spawn(serve).abort_handle());
        self.open = true;
        self.serve_tcp(handle)
    }

    fn serve_tcp(&mut self, handle: &DaemonHandle) -> io::Result<()> {
        if let Some((_, listener)) = &self.tcp {
            let tcp = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
            let serve = doors::serve_tcp(tcp, handle.clone(), self.token.clone(), Limits::default());
            self.serving_tcp = Some(tasks::spawn(serve).abort_handle());
        }
        Ok(())
    }

    /// Listens elsewhere, or for another token, where that differs. On an error nothing has changed.
    pub(super) fn rebind(&mut self, address: Option<SocketAddr>, token: Token, handle: &DaemonHandle) -> Result<(), DaemonError> {
        let same_address = self.tcp.as_ref().map(|(address, _)| *address) == address;
        if same_address && self.token.cookie() == token.cookie() {
            return Ok(());
        }
        if !same_address {
            self.tcp = self.listen_at(address, handle)?;
        }
        self.token = token;
        if let Some(serving) = self.serving_tcp.take() {
            serving.abort();
        }
        if self.open {
            self.serve_tcp(handle).map_err(starting("serving the health endpoint"))?;
        }
        Ok(())
    }

    /// Listens there. On all addresses of a port nobody can listen who listens on one of them, not even ourselves: then that ends first,
    /// and begins again if it was in vain.
    fn listen_at(&mut self, address: Option<SocketAddr>, handle: &DaemonHandle) -> Result<Option<(SocketAddr, TcpListener)>, DaemonError> {
        let bound = listen(address);
        let ours = self
            .tcp
            .as_ref()
            .filter(|(ours, _)| address.is_some_and(|address| address.port() == ours.port()));
        let (Err(DaemonError::Listen { source, .. }), Some((_, ours))) = (&bound, ours) else {
            return bound;
        };
        if source.kind() != io::ErrorKind::AddrInUse || socket::shutdown(ours.as_raw_fd(), Shutdown::Read).is_err() {
            return bound;
        }
        let bound = listen(address);
        if bound.is_err() {
            socket::listen(ours, Backlog::MAXCONN).map_err(|why| starting("listening again for the health endpoint")(why))?;
            if let Some(serving) = self.serving_tcp.take() {
                serving.abort();
                self.serve_tcp(handle).map_err(starting("serving the health endpoint"))?;
            }
        }
        bound
    }

    /// Takes no more: who comes waits in the kernel.
    pub(super) fn shut(&mut self) {
        let serving = [self.serving_unix.take(), self.serving_tcp.take()];
        serving.into_iter().flatten().for_each(|task| task.abort());
        self.open = false;
    }
}
