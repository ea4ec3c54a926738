//! Ancillary data of socket messages: the local address, the type of service, segment sizes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Octets of ancillary data that one message needs at most, both ways.
pub(crate) const CONTROL: usize = 128;

/// Ancillary data of one message, aligned as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Control {
    octets: [u8; CONTROL],
    length: usize,
}

/// What a received message says beside its octets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ancillary {
    pub(crate) local: Option<IpAddr>,
    pub(crate) tos: u8,
    pub(crate) segment: Option<usize>,
}

/// `struct cmsghdr`: the size of the item with its header, level, type. Items begin at multiples of a word.
const HEADER: usize = size_of::<libc::cmsghdr>();
const WORD: usize = size_of::<usize>();

impl Control {
    pub(crate) const fn new() -> Self {
        Self {
            octets: [0; CONTROL],
            length: 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.length = 0;
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.octets.as_mut_ptr().cast()
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Append one item. What does not fit is left out: `CONTROL` is larger than everything this crate sends.
    fn push(&mut self, level: i32, kind: i32, value: &[u8]) {
        let end = self.length + HEADER + value.len();
        if end > CONTROL {
            return;
        }
        let at = self.length;
        self.octets[at..at + WORD].copy_from_slice(&(HEADER + value.len()).to_ne_bytes());
        self.octets[at + WORD..at + WORD + 4].copy_from_slice(&level.to_ne_bytes());
        self.octets[at + WORD + 4..at + WORD + 8].copy_from_slice(&kind.to_ne_bytes());
        self.octets[at + HEADER..end].copy_from_slice(value);
        self.length = end.next_multiple_of(WORD).min(CONTROL);
    }

    /// Send from this address; nothing where it is unspecified.
    pub(crate) fn push_source(&mut self, local: IpAddr) {
        match local {
            ip if ip.is_unspecified() => {}
            IpAddr::V4(ip) => {
                // struct in_pktinfo: interface, local address (the source), destination (unused here)
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&ip.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V6(ip) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&ip.octets());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    pub(crate) fn push_tos(&mut self, is_v6: bool, tos: u8) {
        let value = i32::from(tos).to_ne_bytes();
        if is_v6 {
            self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &value);
        } else {
            self.push(libc::IPPROTO_IP, libc::IP_TOS, &value);
        }
    }

    /// Forbid fragmentation of this one datagram. IPv4 has no such item: see `outer::Socket`.
    pub(crate) fn push_dont_fragment_v6(&mut self) {
        self.push(libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, &1i32.to_ne_bytes());
    }

    pub(crate) fn push_segment(&mut self, octets: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &octets.to_ne_bytes());
    }

    /// Read what the kernel wrote: `length` octets of it. Items of no interest are skipped, a broken list ends.
    pub(crate) fn read(&self, length: usize) -> Ancillary {
        let mut found = Ancillary::default();
        let mut rest = &self.octets[..length.min(CONTROL)];
        while rest.len() >= HEADER {
            let mut word = [0; WORD];
            word.copy_from_slice(&rest[..WORD]);
            let size = usize::from_ne_bytes(word);
            if size < HEADER || size > rest.len() {
                break;
            }
            found.note(
                number(&rest[WORD..]),
                number(&rest[WORD + 4..]),
                &rest[HEADER..size],
            );
            rest = &rest[size.next_multiple_of(WORD).min(rest.len())..];
        }
        found
    }
}

/// The C int at the head of `octets`, which are four at least.
fn number(octets: &[u8]) -> i32 {
    i32::from_ne_bytes([octets[0], octets[1], octets[2], octets[3]])
}

impl Ancillary {
    fn note(&mut self, level: i32, kind: i32, value: &[u8]) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if value.len() >= 12 => {
                // The third field is the destination of the header; the second would be our preferred source.
                self.local = Some(IpAddr::V4(Ipv4Addr::new(
                    value[8], value[9], value[10], value[11],
                )));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if value.len() >= 16 => {
                let mut octets = [0; 16];
                octets.copy_from_slice(&value[..16]);
                self.local = Some(IpAddr::V6(Ipv6Addr::from(octets)));
            }
            (libc::IPPROTO_IP, libc::IP_TOS) if !value.is_empty() => self.tos = value[0],
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) if value.len() >= 4 => {
                self.tos = number(value) as u8;
            }
            (libc::SOL_UDP, libc::UDP_GRO) if value.len() >= 4 => {
                let size = number(value);
                self.segment = usize::try_from(size).ok().filter(|size| *size > 0);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut control = Control::new();
        control.push_source(IpAddr::V6(Ipv6Addr::LOCALHOST));
        control.push_tos(true, 0xb9);
        control.push_segment(1400);
        let found = control.read(control.len());
        assert_eq!(found.local, Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(found.tos, 0xb9);
    }

    #[test]
    fn a_broken_list_ends_without_harm() {
        let mut control = Control::new();
        control.push_tos(false, 3);
        for length in 0..CONTROL {
            for size in [0usize, 15, 17, 200, usize::MAX] {
                control.octets[..WORD].copy_from_slice(&size.to_ne_bytes());
                assert_eq!(control.read(length).local, None);
            }
        }
    }
}
