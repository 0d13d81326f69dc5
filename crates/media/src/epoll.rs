//! Waiting for many sockets at once: `epoll`, level-triggered.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Sockets told of in one call; the others are told of in the next.
const EVENTS_MAX: usize = 256;

/// A set of descriptors, each with a token. A closed descriptor leaves the set by itself. The set is a descriptor too: readable when one
/// in it is ready.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: u64,
    /// Readable, closed or broken: reading says which.
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Puts a descriptor in: told of when readable.
    pub(crate) fn add(&self, what: &impl AsRawFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, what.as_raw_fd(), token, false)
    }

    /// Says whether a descriptor is told of when writable, too.
    pub(crate) fn watch_writable(&self, what: &impl AsRawFd, token: u64, writable: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, what.as_raw_fd(), token, writable)
    }

    /// Waits until something is ready or the time is over; `None` waits for ever. Pushes what is ready.
    pub(crate) fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        // Rounded up: a deadline has passed when this returns.
        let timeout = timeout.map_or(-1, |left| i32::try_from(left.as_micros().div_ceil(1_000)).unwrap_or(i32::MAX));
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        let max = i32::try_from(EVENTS_MAX).unwrap_or(i32::MAX);
        // SAFETY: the array lives until after the call, and the count is the array's.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), max, timeout) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        };
        ready.extend(events[..count].iter().map(|event| {
            let is = |flags: i32| event.events & u32::from_ne_bytes(flags.to_ne_bytes()) != 0;
            let readable = is(libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLRDHUP | libc::EPOLLERR);
            Ready { token: event.u64, readable, writable: is(libc::EPOLLOUT) }
        }));
        Ok(())
    }

    fn control(&self, operation: i32, fd: RawFd, token: u64, writable: bool) -> io::Result<()> {
        let flags = libc::EPOLLIN | if writable { libc::EPOLLOUT } else { 0 };
        let mut event = libc::epoll_event { events: u32::from_ne_bytes(flags.to_ne_bytes()), u64: token };
        // SAFETY: both descriptors are open, and the event lives until after the call.
        let done = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &raw mut event) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
