//! Descriptors: duplicated, checked for what they are, and set up.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::address::RawAddress;
use crate::error::DeviceError;
use crate::socket::SocketKind;

/// IP protocol number of ESP.
const PROTOCOL_ESP: i32 = 50;

/// A duplicate of a descriptor, closed on exec.
pub(crate) fn duplicate(fd: RawFd) -> Result<OwnedFd, DeviceError> {
    // SAFETY: F_DUPFD_CLOEXEC has no pointers; a number that is not open is answered with EBADF.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(DeviceError::last("duplicating a descriptor"));
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Make the open file behind `fd` non-blocking.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> Result<(), DeviceError> {
    // SAFETY: neither call has pointers.
    let done = unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        flags >= 0 && libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) >= 0
    };
    if done {
        Ok(())
    } else {
        Err(DeviceError::last("O_NONBLOCK"))
    }
}

/// Refuse what is not a socket of that kind bound to the wildcard address; answers what it is bound to.
pub(crate) fn check_kind(
    fd: RawFd,
    owned: &OwnedFd,
    kind: SocketKind,
) -> Result<SocketAddr, DeviceError> {
    let (wanted, kind_wanted, protocol_wanted) = match kind {
        SocketKind::Udp { .. } => ("a UDP socket", libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        SocketKind::Raw => ("a raw socket of protocol 50", libc::SOCK_RAW, PROTOCOL_ESP),
    };
    let wrong = |found: String| DeviceError::WrongKind { fd, wanted, found };
    let (Ok(found), Ok(protocol)) = (
        option(owned, libc::SOL_SOCKET, libc::SO_TYPE),
        option(owned, libc::SOL_SOCKET, libc::SO_PROTOCOL),
    ) else {
        return Err(wrong("it is no socket".to_owned()));
    };
    if found != kind_wanted || protocol != protocol_wanted {
        return Err(wrong(format!("type is {found}, protocol {protocol}")));
    }
    let local = bound_to(owned)?;
    match kind {
        SocketKind::Udp { port } if local.port() != port => {
            Err(wrong(format!("it is bound to {local}, not to {port}")))
        }
        SocketKind::Udp { .. }
            if local.is_ipv6()
                && option(owned, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).ok() != Some(1) =>
        {
            Err(wrong("it takes IPv4 too (IPV6_V6ONLY is off)".to_owned()))
        }
        _ => Ok(local),
    }
}

pub(crate) fn bound_to(fd: &OwnedFd) -> Result<SocketAddr, DeviceError> {
    let mut raw = RawAddress::empty();
    let mut length = RawAddress::SIZE;
    // SAFETY: the kernel writes at most `length` octets to `raw`, and the true length to `length`.
    let answer =
        unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut raw).cast(), &raw mut length) };
    if answer < 0 {
        return Err(DeviceError::last("getsockname"));
    }
    raw.read(length).ok_or(DeviceError::WrongKind {
        fd: fd.as_raw_fd(),
        wanted: "a socket of IPv4 or IPv6",
        found: "it is of another family".to_owned(),
    })
}

/// What this crate needs of every socket; the rest, buffers and marks, is left to the opener.
pub(crate) fn configure(fd: &OwnedFd, is_v6: bool) -> Result<(), DeviceError> {
    set_nonblocking(fd)?;
    if is_v6 {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
    } else {
        set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        set_option(
            fd,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_OMIT,
        )?;
    }
    Ok(())
}

pub(crate) fn option(fd: &OwnedFd, level: i32, name: i32) -> Result<i32, DeviceError> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` octets to `value`.
    let answer = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if answer < 0 {
        Err(DeviceError::last("getsockopt"))
    } else {
        Ok(value)
    }
}

pub(crate) fn set_option(
    fd: &OwnedFd,
    level: i32,
    name: i32,
    value: libc::c_int,
) -> Result<(), DeviceError> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` octets of `value`.
    let answer = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    if answer < 0 {
        Err(DeviceError::last("setsockopt"))
    } else {
        Ok(())
    }
}

/// Wait until the socket takes more, for at most so many milliseconds; answers how many to count off.
pub(crate) fn wait_for_room(fd: &OwnedFd, milliseconds: i32) -> i32 {
    let step = milliseconds.min(5);
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: the pointer and the count describe `entry`.
    unsafe { libc::poll(&raw mut entry, 1, step) };
    step.max(1)
}
