//! Traffic selectors as an SA or a policy holds them (RFC 4301 4.4.1.1), and whether they select a packet.

use std::net::IpAddr;

use crate::wire::{Flow, Ports};

/// The protocol of a selector that takes all of them.
pub const ANY_PROTOCOL: u8 = 0;

/// A selector that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Start and end are of different families.
    #[error("selector: one address family, got {0} to {1}")]
    Families(IpAddr, IpAddr),
    /// Start is above end.
    #[error("selector: start not above end, got {0} to {1}")]
    Order(IpAddr, IpAddr),
    /// Start port above end port, and not 65535 to 0, which is OPAQUE.
    #[error("selector: start port not above end port, got {0} to {1}")]
    Ports(u16, u16),
}

/// One range of addresses of one family, with a protocol and a range of ports.
///
/// For ICMP the ports are type * 256 + code. Ports 0 to 65535 are ANY, 65535 to 0 OPAQUE (RFC 7296 3.13.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    is_v4: bool,
    protocol: u8,
    start_port: u16,
    end_port: u16,
    start: u128,
    end: u128,
}

/// Address as a number; the families are kept apart by `is_v4` beside it.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

impl Selector {
    /// A selector, if start and end fit together.
    pub fn new(
        start: IpAddr,
        end: IpAddr,
        protocol: u8,
        start_port: u16,
        end_port: u16,
    ) -> Result<Self, SelectorError> {
        if start.is_ipv4() != end.is_ipv4() {
            return Err(SelectorError::Families(start, end));
        }
        if start > end {
            return Err(SelectorError::Order(start, end));
        }
        if start_port > end_port && (start_port, end_port) != (u16::MAX, 0) {
            return Err(SelectorError::Ports(start_port, end_port));
        }
        Ok(Self {
            is_v4: start.is_ipv4(),
            protocol,
            start_port,
            end_port,
            start: number(start),
            end: number(end),
        })
    }

    /// Whether it is of IPv4.
    pub fn is_v4(&self) -> bool {
        self.is_v4
    }

    /// One or two prefixes, as network and mask, that cover the range with less than twice its addresses each: a range
    /// that crosses the middle of its smallest common prefix is cut there, so that 10.0.0.255 to 10.0.1.0 costs no more
    /// than 10.0.0.254 to 10.0.0.255.
    pub(crate) fn covers(&self) -> impl Iterator<Item = (u128, u128)> {
        let whole = covering_mask(self.start, self.end);
        // Below a one-bit-longer mask, `middle` is the first address of the upper half.
        let middle = self.end & ((whole >> 1) | (1 << 127));
        let is_prefix =
            self.start & !whole == 0 && self.end & !whole == !whole & self.family_mask();
        let halves = if is_prefix || self.start == self.end {
            [Some((self.start, self.end)), None]
        } else {
            [Some((self.start, middle - 1)), Some((middle, self.end))]
        };
        halves.into_iter().flatten().map(|(start, end)| {
            let mask = covering_mask(start, end);
            (start & mask, mask)
        })
    }

    fn family_mask(&self) -> u128 {
        if self.is_v4 {
            u32::MAX.into()
        } else {
            u128::MAX
        }
    }

    /// Whether it takes an end of a packet. `port` is None where the packet shows none: only ANY and OPAQUE take that
    /// (RFC 4301 7.2, and 4.4.1.1 for protocols without ports).
    fn takes(&self, end: &End, protocol: u8) -> bool {
        let has_all_ports = self.start_port == 0 && self.end_port == u16::MAX;
        let ports_fit = has_all_ports
            || match end.port {
                Some(port) => self.start_port <= port && port <= self.end_port,
                None => self.start_port > self.end_port,
            };
        // RFC 4301 4.4.1.1: ports of any protocol would mean nothing, so a selector of them selects nothing.
        let protocol_fits = if self.protocol == ANY_PROTOCOL {
            has_all_ports
        } else {
            self.protocol == protocol
        };
        self.is_v4 == end.is_v4
            && self.start <= end.address
            && end.address <= self.end
            && protocol_fits
            && ports_fit
    }
}

/// Mask of the longest prefix that holds both addresses.
fn covering_mask(start: u128, end: u128) -> u128 {
    let differing = 128 - (start ^ end).leading_zeros();
    u128::MAX.checked_shl(differing).unwrap_or(0)
}

/// One end of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub is_v4: bool,
    pub address: u128,
    pub port: Option<u16>,
}

/// A packet seen from this host: which end is here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub local: End,
    pub remote: End,
    pub protocol: u8,
}

impl Ends {
    pub fn outbound(flow: &Flow) -> Self {
        let (source_port, destination_port) = match flow.ports {
            Ports::Known(source, destination) => (Some(source), Some(destination)),
            Ports::Opaque => (None, None),
        };
        let end = |address: IpAddr, port| End {
            is_v4: address.is_ipv4(),
            address: number(address),
            port,
        };
        Self {
            local: end(flow.source, source_port),
            remote: end(flow.destination, destination_port),
            protocol: flow.protocol,
        }
    }

    pub fn inbound(flow: &Flow) -> Self {
        let Self {
            local,
            remote,
            protocol,
        } = Self::outbound(flow);
        Self {
            local: remote,
            remote: local,
            protocol,
        }
    }
}

/// The selectors of an SA or a policy: a union of local ones and a union of remote ones (RFC 7296 2.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorPair {
    /// Source of outbound, destination of inbound packets.
    pub local: Box<[Selector]>,
    /// Destination of outbound, source of inbound packets.
    pub remote: Box<[Selector]>,
}

impl SelectorPair {
    /// Whether an outbound packet is inside.
    pub fn takes_outbound(&self, flow: &Flow) -> bool {
        self.takes(&Ends::outbound(flow))
    }

    /// Whether an inbound packet is inside.
    pub fn takes_inbound(&self, flow: &Flow) -> bool {
        self.takes(&Ends::inbound(flow))
    }

    pub(crate) fn takes(&self, ends: &Ends) -> bool {
        self.local
            .iter()
            .any(|selector| selector.takes(&ends.local, ends.protocol))
            && self
                .remote
                .iter()
                .any(|selector| selector.takes(&ends.remote, ends.protocol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(start: &str, end: &str, protocol: u8, ports: (u16, u16)) -> Selector {
        Selector::new(
            start.parse().unwrap(),
            end.parse().unwrap(),
            protocol,
            ports.0,
            ports.1,
        )
        .unwrap()
    }

    fn pair(remote: Selector) -> SelectorPair {
        SelectorPair {
            local: [selector("10.0.0.0", "10.0.0.255", 0, (0, 65535))].into(),
            remote: [remote].into(),
        }
    }

    fn flow(destination: &str, protocol: u8, ports: Ports) -> Flow {
        Flow {
            source: "10.0.0.7".parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            ports,
        }
    }

    #[test]
    fn ports_and_protocol_are_compared_at_their_own_end() {
        let web = pair(selector("10.9.0.0", "10.9.255.255", 6, (443, 443)));
        assert!(web.takes_outbound(&flow("10.9.0.1", 6, Ports::Known(50_000, 443))));
        assert!(!web.takes_outbound(&flow("10.9.0.1", 6, Ports::Known(443, 80))));
        assert!(!web.takes_outbound(&flow("10.9.0.1", 17, Ports::Known(50_000, 443))));
        assert!(!web.takes_outbound(&flow("10.8.0.1", 6, Ports::Known(50_000, 443))));
    }

    #[test]
    fn inbound_is_the_mirror_of_outbound() {
        let web = pair(selector("10.9.0.0", "10.9.255.255", 6, (443, 443)));
        let back = Flow {
            source: "10.9.0.1".parse().unwrap(),
            destination: "10.0.0.7".parse().unwrap(),
            protocol: 6,
            ports: Ports::Known(443, 50_000),
        };
        assert!(web.takes_inbound(&back) && !web.takes_outbound(&back));
    }

    #[test]
    fn packets_without_ports_are_taken_by_any_and_opaque_only() {
        let fragment = flow("10.9.0.1", 17, Ports::Opaque);
        assert!(pair(selector("10.9.0.0", "10.9.0.9", 17, (0, 65535))).takes_outbound(&fragment));
        assert!(pair(selector("10.9.0.0", "10.9.0.9", 17, (65535, 0))).takes_outbound(&fragment));
        assert!(!pair(selector("10.9.0.0", "10.9.0.9", 17, (0, 65534))).takes_outbound(&fragment));
        let whole = flow("10.9.0.1", 17, Ports::Known(1, 65535));
        assert!(!pair(selector("10.9.0.0", "10.9.0.9", 17, (65535, 0))).takes_outbound(&whole));
    }

    #[test]
    fn ports_without_a_protocol_select_nothing() {
        let odd = pair(selector("10.9.0.0", "10.9.0.9", 0, (53, 53)));
        assert!(!odd.takes_outbound(&flow("10.9.0.1", 17, Ports::Known(50_000, 53))));
        assert!(!odd.takes_outbound(&flow("10.9.0.1", 17, Ports::Opaque)));
    }

    #[test]
    fn a_v4_selector_takes_no_mapped_v6_address() {
        let all = pair(selector("0.0.0.0", "255.255.255.255", 0, (0, 65535)));
        assert!(!all.takes_outbound(&flow("::ffff:10.9.0.1", 6, Ports::Known(1, 2))));
        assert!(!all.takes_outbound(&flow("::1", 6, Ports::Known(1, 2))));
    }

    #[test]
    fn selectors_that_cannot_be_are_refused() {
        let (low, high, six) = (
            "10.0.0.1".parse().unwrap(),
            "10.0.0.2".parse().unwrap(),
            "::".parse().unwrap(),
        );
        assert!(matches!(
            Selector::new(high, low, 0, 0, 1),
            Err(SelectorError::Order(..))
        ));
        assert!(matches!(
            Selector::new(low, six, 0, 0, 1),
            Err(SelectorError::Families(..))
        ));
        assert_eq!(
            Selector::new(low, high, 0, 2, 1),
            Err(SelectorError::Ports(2, 1))
        );
    }
}
