//! Waiting: eventfds to wake a thread or an event loop, and poll(2) over a handful of descriptors.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::DeviceError;

/// A counter that makes a descriptor readable while it is not zero.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one, at zero.
    pub fn new() -> Result<Self, DeviceError> {
        // SAFETY: no pointers; the answer is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(DeviceError::last("eventfd"));
        }
        // SAFETY: the kernel just gave us this descriptor; nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Make it readable.
    pub fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: `one` is eight readable octets. A full counter (EAGAIN) is readable already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Make it unreadable until the next signal.
    pub fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: `count` is eight writable octets. EAGAIN says that there was nothing to clear.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Which of a fixed set of descriptors can be read.
#[derive(Debug)]
pub struct Readiness {
    entries: Vec<libc::pollfd>,
}

impl Readiness {
    /// Wait for these; their owner must outlive this value, or close none of them.
    pub fn new(descriptors: &[RawFd]) -> Self {
        let entry = |fd: &RawFd| libc::pollfd {
            fd: *fd,
            events: libc::POLLIN,
            revents: 0,
        };
        Self {
            entries: descriptors.iter().map(entry).collect(),
        }
    }

    /// Wait until one is readable, or for so many milliseconds. Answers whether one is. Interrupted by a signal, it answers
    /// as if time were up.
    pub fn wait(&mut self, milliseconds: i32) -> io::Result<bool> {
        let count = self.entries.len() as libc::nfds_t;
        // SAFETY: the pointer and the count describe our own vector.
        let ready = unsafe { libc::poll(self.entries.as_mut_ptr(), count, milliseconds) };
        if ready < 0 {
            for entry in &mut self.entries {
                entry.revents = 0;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(ready > 0)
    }

    /// Wait for descriptor number `index` from now on, or no more.
    pub fn heed(&mut self, index: usize, is_heeded: bool) {
        if let Some(entry) = self.entries.get_mut(index)
            && (entry.fd >= 0) != is_heeded
        {
            entry.fd = !entry.fd; // poll(2) ignores what is negative
            entry.revents = 0;
        }
    }

    /// Whether descriptor number `index` has something to read, or an error to fetch.
    pub fn is_readable(&self, index: usize) -> bool {
        self.entries
            .get(index)
            .is_some_and(|entry| entry.revents != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eventfd_is_readable_from_signal_to_clear() -> Result<(), Box<dyn std::error::Error>> {
        let event = EventFd::new()?;
        let mut readiness = Readiness::new(&[event.as_fd().as_raw_fd()]);
        assert!(!readiness.wait(0)? && !readiness.is_readable(0));
        event.signal();
        assert!(readiness.wait(0)? && readiness.is_readable(0));
        readiness.heed(0, false);
        assert!(!readiness.wait(0)? && !readiness.is_readable(0));
        readiness.heed(0, true);
        assert!(readiness.wait(0)? && readiness.is_readable(0));
        event.clear();
        readiness.wait(0)?;
        assert!(!readiness.is_readable(0));
        assert!(!readiness.is_readable(1));
        Ok(())
    }
}
