//! Socket addresses as the kernel writes them, and paths.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Where a datagram came from or goes to, seen from this host; ports are 0 for raw ESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// The unspecified address of the family of `other`, with port 0.
pub fn any_address(other: &SocketAddr) -> SocketAddr {
    match other {
        SocketAddr::V4(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        SocketAddr::V6(_) => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    }
}

/// Room for an address of either family.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union RawAddress {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
    family: libc::sa_family_t,
}

impl RawAddress {
    pub(crate) const SIZE: u32 = size_of::<Self>() as u32;

    pub(crate) fn empty() -> Self {
        // SAFETY: all-zero octets are a value of each of the three plain C structures.
        unsafe { std::mem::zeroed() }
    }

    pub(crate) fn of(address: &SocketAddr) -> (Self, u32) {
        let mut raw = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from(*v4.ip()).to_be(),
                    },
                    sin_zero: [0; 8],
                };
                (raw, size_of::<libc::sockaddr_in>() as u32)
            }
            SocketAddr::V6(v6) => {
                raw.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                (raw, size_of::<libc::sockaddr_in6>() as u32)
            }
        }
    }

    /// None for another family, or where the kernel wrote fewer octets than the family has.
    pub(crate) fn read(&self, length: u32) -> Option<SocketAddr> {
        if (length as usize) < size_of::<libc::sa_family_t>() {
            return None;
        }
        // SAFETY: the family is the first member of every variant, and the union is zeroed before the kernel writes it.
        let family = i32::from(unsafe { self.family });
        if family == libc::AF_INET && length as usize >= size_of::<libc::sockaddr_in>() {
            // SAFETY: the family says that the kernel wrote a `sockaddr_in`; every bit pattern of one is a value.
            let v4 = unsafe { self.v4 };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            return Some(SocketAddr::V4(SocketAddrV4::new(
                ip,
                u16::from_be(v4.sin_port),
            )));
        }
        if family == libc::AF_INET6 && length as usize >= size_of::<libc::sockaddr_in6>() {
            // SAFETY: as above, for `sockaddr_in6`.
            let v6 = unsafe { self.v6 };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            return Some(SocketAddr::V6(SocketAddrV6::new(
                ip,
                port,
                0,
                v6.sin6_scope_id,
            )));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_form_of_the_kernel() {
        for text in ["192.0.2.1:4500", "[2001:db8::1]:500", "0.0.0.0:0"] {
            let address: SocketAddr = text
                .parse()
                .unwrap_or_else(|_| any_address(&([0, 0, 0, 0], 0).into()));
            let (raw, length) = RawAddress::of(&address);
            assert_eq!(raw.read(length), Some(address));
            assert_eq!(raw.read(1), None);
        }
    }
}
