//! Waiting: eventfds to wake a thread or an event loop, and epoll(7) over a handful of descriptors.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::error::DeviceError;

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

/// Which of a fixed set of descriptors can be read: epoll(7), whose cost is that of those that can be, not of all.
#[derive(Debug)]
pub struct Readiness {
    epoll: OwnedFd,
    descriptors: Vec<Watched>,
    events: Vec<libc::epoll_event>,
}

#[derive(Debug)]
struct Watched {
    fd: RawFd,
    is_watched: bool,
    is_readable: bool,
}

impl Readiness {
    /// Wait for these, but for those that are negative; their owner must outlive this value, or close none of them.
    pub fn new(descriptors: &[RawFd]) -> Result<Self, DeviceError> {
        // SAFETY: no pointers; the answer is checked before it is owned.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(DeviceError::last("epoll_create1"));
        }
        let watched = |fd: &RawFd| Watched {
            fd: *fd,
            is_watched: false,
            is_readable: false,
        };
        let mut readiness = Self {
            // SAFETY: the kernel just gave us this descriptor; nobody else has it.
            epoll: unsafe { OwnedFd::from_raw_fd(fd) },
            descriptors: descriptors.iter().map(watched).collect(),
            events: vec![libc::epoll_event { events: 0, u64: 0 }; descriptors.len().max(1)],
        };
        for index in 0..descriptors.len() {
            readiness.watch(index, true)?;
        }
        Ok(readiness)
    }

    /// Wait until one is readable, or for this long, rounded up to milliseconds; None is for ever. Answers whether one is.
    /// Interrupted by a signal, it answers as if time were up.
    pub fn wait(&mut self, time: Option<Duration>) -> Result<bool, DeviceError> {
        let milliseconds = time.map_or(-1, |time| {
            let up = time.as_nanos().div_ceil(1_000_000);
            i32::try_from(up).unwrap_or(i32::MAX)
        });
        let room = self.events.len() as i32;
        // SAFETY: the pointer and the count describe our own vector.
        let ready = unsafe {
            let events = self.events.as_mut_ptr();
            libc::epoll_wait(self.epoll.as_raw_fd(), events, room, milliseconds)
        };
        for watched in &mut self.descriptors {
            watched.is_readable = false;
        }
        if ready < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(false),
                _ => Err(DeviceError::last("epoll_wait")),
            };
        }
        for event in &self.events[..ready as usize] {
            self.descriptors[event.u64 as usize].is_readable = true;
        }
        Ok(ready > 0)
    }

    /// Wait for descriptor number `index` from now on, or no more.
    pub fn watch(&mut self, index: usize, is_watched: bool) -> Result<(), DeviceError> {
        let Some(watched) = self.descriptors.get_mut(index) else {
            return Ok(());
        };
        if watched.fd < 0 || watched.is_watched == is_watched {
            return Ok(());
        }
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: index as u64,
        };
        let what = if is_watched {
            libc::EPOLL_CTL_ADD
        } else {
            libc::EPOLL_CTL_DEL
        };
        // SAFETY: the event is alive during the call, which copies it.
        if unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), what, watched.fd, &raw mut event) } < 0
        {
            return Err(DeviceError::last("epoll_ctl"));
        }
        watched.is_watched = is_watched;
        watched.is_readable = false;
        Ok(())
    }

    /// Whether descriptor number `index` has something to read, or an error to fetch.
    pub fn is_readable(&self, index: usize) -> bool {
        self.descriptors
            .get(index)
            .is_some_and(|watched| watched.is_readable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eventfd_is_readable_from_signal_to_clear() -> Result<(), Box<dyn std::error::Error>> {
        let event = EventFd::new()?;
        let mut readiness = Readiness::new(&[event.as_fd().as_raw_fd(), -1])?;
        assert!(!readiness.wait(Some(Duration::ZERO))? && !readiness.is_readable(0));
        event.signal();
        assert!(readiness.wait(Some(Duration::ZERO))? && readiness.is_readable(0));
        readiness.watch(0, false)?;
        assert!(!readiness.wait(Some(Duration::ZERO))? && !readiness.is_readable(0));
        readiness.watch(0, true)?;
        assert!(readiness.wait(Some(Duration::ZERO))? && readiness.is_readable(0));
        event.clear();
        readiness.wait(Some(Duration::ZERO))?;
        assert!(!readiness.is_readable(0));
        assert!(!readiness.is_readable(1) && !readiness.is_readable(2));
        Ok(())
    }

    #[test]
    fn each_of_several_is_told_apart_for_as_long_as_it_can_be_read()
    -> Result<(), Box<dyn std::error::Error>> {
        let events = [EventFd::new()?, EventFd::new()?, EventFd::new()?];
        let mut readiness = Readiness::new(&events.each_ref().map(|one| one.as_fd().as_raw_fd()))?;
        let told = |readiness: &Readiness| [0, 1, 2].map(|index| readiness.is_readable(index));
        events[0].signal();
        events[2].signal();
        for _ in 0..2 {
            assert!(readiness.wait(None)?);
            assert_eq!(told(&readiness), [true, false, true]);
        }
        events[0].clear();
        assert!(readiness.wait(None)?);
        assert_eq!(told(&readiness), [false, false, true]);
        Ok(())
    }

    #[test]
    fn what_cannot_be_waited_for_is_refused() -> Result<(), Box<dyn std::error::Error>> {
        let file = std::fs::File::open("/proc/self/exe")?;
        assert!(Readiness::new(&[file.as_raw_fd()]).is_err());
        Ok(())
    }
}
