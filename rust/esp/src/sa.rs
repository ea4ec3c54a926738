//! Inbound and outbound SAs (RFC 4303 3.3, 3.4): from an inner packet to an ESP packet and back, with every check.
//!
//! Shared by threads behind a reference: what changes is atomic, and nothing waits.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::aggfrag;
use crate::drops::{DropCounters, DropReason};
use crate::ecn;
use crate::icmp_error::{self, IcmpCheck};
use crate::meter::{Limits, Meter, Usage, max_sequence};
use crate::replay::{ReplayWindow, WindowError};
use crate::selectors::SelectorPair;
use crate::suite::{PacketKey, Suite, SuiteError};
use crate::wire::{self, ESP_TRAILER, IpPacket, protocol};

/// An SA that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaError {
    /// See `SuiteError`.
    #[error(transparent)]
    Suite(#[from] SuiteError),
    /// See `WindowError`.
    #[error(transparent)]
    Window(#[from] WindowError),
}

/// What one half of an SA needs to begin.
#[derive(Debug)]
pub struct SaConfig<'a> {
    /// Security Parameters Index.
    pub spi: u32,
    /// Row of the table of suites.
    pub suite: Suite,
    /// Whether sequence numbers have 64 bits.
    pub has_esn: bool,
    /// Key and salt in KEYMAT order.
    pub key: &'a [u8],
    /// Empty with an AEAD.
    pub integrity_key: &'a [u8],
    /// What may pass.
    pub selectors: SelectorPair,
    /// When it asks and stops.
    pub limits: Limits,
    /// Highest sequence number used already: 0 for a new SA.
    pub last_sequence: u64,
}

impl SaConfig<'_> {
    fn packet_key(&self) -> Result<PacketKey, SaError> {
        let key = PacketKey::new(self.suite, self.has_esn, self.key, self.integrity_key)?;
        Ok(key)
    }

    #[cfg(feature = "unsealed")]
    fn no_key(&self) -> PacketKey {
        PacketKey::unsealed(self.suite, self.has_esn)
    }
}

/// A sealed packet: `buffer[..size]` is what goes behind the outer IP or UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Octets from SPI to ICV.
    pub size: usize,
    /// Its sequence number.
    pub sequence: u64,
    /// TOS of the outer header: ECN of the inner one (RFC 6040 4.1) and its DSCP where the SA copies that.
    pub outer_tos: u8,
    /// Don't Fragment of the inner packet, for an SA that copies it outside; true for IPv6.
    pub is_inner_df: bool,
    /// Where the SA stands.
    pub usage: Usage,
}

/// The sending half of a Child SA.
#[derive(Debug)]
pub struct OutboundSa {
    spi: u32,
    key: PacketKey,
    selectors: SelectorPair,
    copies_dscp: bool,
    last_sequence: AtomicU64,
    max_sequence: u64,
    meter: Meter,
    drops: DropCounters,
}

impl OutboundSa {
    /// An SA that sends with sequence number `last_sequence` + 1 next.
    pub fn new(config: SaConfig<'_>, copies_dscp: bool) -> Result<Self, SaError> {
        Ok(Self::with_key(config.packet_key()?, config, copies_dscp))
    }

    /// The same for measurements of what is not cipher: packets have all their octets, but leave unencrypted.
    #[cfg(feature = "unsealed")]
    pub fn unsealed(config: SaConfig<'_>, copies_dscp: bool) -> Self {
        Self::with_key(config.no_key(), config, copies_dscp)
    }

    fn with_key(key: PacketKey, config: SaConfig<'_>, copies_dscp: bool) -> Self {
        Self {
            spi: config.spi,
            key,
            selectors: config.selectors,
            copies_dscp,
            last_sequence: AtomicU64::new(config.last_sequence),
            max_sequence: max_sequence(config.has_esn),
            meter: Meter::new(config.limits, config.suite, config.has_esn),
            drops: DropCounters::default(),
        }
    }

    /// Seal the inner packet that stands at `buffer[headroom..headroom + size]`, headroom being `suite().headroom()`.
    ///
    /// Writes SPI, sequence number, IV, padding, trailer and ICV around it: `suite().sealed_size(size)` octets from the
    /// front of the buffer. The caller has checked the packet against policy and selectors. A drop is counted here, too.
    pub fn seal(&self, buffer: &mut [u8], size: usize) -> Result<Sealed, DropReason> {
        self.try_seal(buffer, size)
            .inspect_err(|&reason| self.drops.count(reason))
    }

    fn try_seal(&self, buffer: &mut [u8], size: usize) -> Result<Sealed, DropReason> {
        let suite = self.key.suite();
        let packet = buffer
            .get_mut(..suite.sealed_size(size))
            .ok_or(DropReason::NoRoom)?;
        let inner = &packet[suite.headroom()..suite.headroom() + size];
        let (next_header, tos, is_inner_df) = envelope(inner)?;
        if !self.meter.has_room() {
            return Err(DropReason::HardLimit);
        }
        let sealed = self.number_and_seal(packet, size, next_header)?;
        Ok(Sealed {
            outer_tos: ecn::outer_tos(tos, self.copies_dscp),
            is_inner_df,
            ..sealed
        })
    }

    /// Seal the AGGFRAG payload that stands at `buffer[headroom..headroom + size]`, as `seal` does with a packet.
    ///
    /// Limits are not looked at: a packet once begun must be sent to its end (RFC 9347 2.2.3), so that the caller asks
    /// `has_room_for` before. Nothing of inner headers is shown outside (RFC 9347 2.2.5, 3.1).
    pub fn seal_payload(&self, buffer: &mut [u8], size: usize) -> Result<Sealed, DropReason> {
        buffer
            .get_mut(..self.suite().sealed_size(size))
            .ok_or(DropReason::NoRoom)
            .and_then(|packet| self.number_and_seal(packet, size, aggfrag::NEXT_HEADER))
            .inspect_err(|&reason| self.drops.count(reason))
    }

    /// Whether limits and sequence numbers leave room for so many payloads with so many octets in all. The caller is the
    /// only one who seals, until they are sealed. A drop is counted here, too.
    pub fn has_room_for(&self, payloads: u64, octets: u64) -> Result<(), DropReason> {
        let last = self.last_sequence().checked_add(payloads);
        let answer = if !self.meter.has_room_for(payloads, octets) {
            Err(DropReason::HardLimit)
        } else if last.is_none_or(|last| last > self.max_sequence) {
            Err(DropReason::SequenceExhausted)
        } else {
            Ok(())
        };
        answer.inspect_err(|&reason| self.drops.count(reason))
    }

    fn number_and_seal(
        &self,
        packet: &mut [u8],
        size: usize,
        next_header: u8,
    ) -> Result<Sealed, DropReason> {
        let sequence = self.take_sequence()?;
        self.seal_text(packet, size, next_header, sequence)?;
        Ok(Sealed {
            size: packet.len(),
            sequence,
            outer_tos: 0,
            is_inner_df: true,
            usage: self.meter.count(size),
        })
    }

    fn seal_text(
        &self,
        packet: &mut [u8],
        size: usize,
        next_header: u8,
        sequence: u64,
    ) -> Result<(), DropReason> {
        let suite = self.key.suite();
        packet[..4].copy_from_slice(&self.spi.to_be_bytes());
        packet[4..8].copy_from_slice(&(sequence as u32).to_be_bytes());
        let (pad_start, end) = (suite.headroom() + size, packet.len() - suite.icv());
        let pad = end - ESP_TRAILER - pad_start;
        // RFC 4303 2.4: the pad octets count from 1.
        packet[pad_start..pad_start + pad]
            .iter_mut()
            .zip(1..)
            .for_each(|(octet, number)| *octet = number);
        packet[end - 2] = pad as u8;
        packet[end - 1] = next_header;
        self.key.seal(packet, sequence)
    }

    /// RFC 4303 3.3.3: the number must not cycle. It is never taken twice, whatever threads race.
    fn take_sequence(&self) -> Result<u64, DropReason> {
        self.last_sequence
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                (last < self.max_sequence).then(|| last + 1)
            })
            .map(|last| last + 1)
            .map_err(|_| DropReason::SequenceExhausted)
    }

    /// The peer's SPI.
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// Row of the table of suites.
    pub fn suite(&self) -> Suite {
        self.key.suite()
    }

    /// What it may carry.
    pub fn selectors(&self) -> &SelectorPair {
        &self.selectors
    }

    /// Last sequence number sent.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence.load(Ordering::Relaxed)
    }

    /// Packets and octets of inner packets carried.
    pub fn carried(&self) -> (u64, u64) {
        self.meter.carried()
    }

    /// What it dropped. The caller may count drops of its own here.
    pub fn drops(&self) -> &DropCounters {
        &self.drops
    }

    /// Other limits from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.meter.set(limits);
    }
}

/// Next header, TOS and DF of a packet that is about to be sealed.
fn envelope(inner: &[u8]) -> Result<(u8, u8, bool), DropReason> {
    let first = inner.first().ok_or(DropReason::MalformedInner)?;
    match first >> 4 {
        4 if inner.len() >= wire::IPV4_HEADER => {
            Ok((protocol::IPV4, inner[1], inner[6] & 0x40 != 0))
        }
        6 if inner.len() >= wire::IPV6_HEADER => {
            Ok((protocol::IPV6, (first << 4) | (inner[1] >> 4), true))
        }
        _ => Err(DropReason::MalformedInner),
    }
}

/// The inner packet of an opened one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Where it stands in the buffer; its length is that of its own header.
    pub range: Range<usize>,
    /// What it says of itself; `tos` is the one before RFC 6040 was applied.
    pub packet: IpPacket,
}

/// A packet that is authentic and new, with what is in it: one inner packet, or where the AGGFRAG payload stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened<T = Inner> {
    /// Its full sequence number.
    pub sequence: u64,
    /// Whether it is the newest so far: only then may the path follow it (RFC 7296 2.23).
    pub is_newest: bool,
    /// What is in it, or why that goes no further although it is authentic.
    pub inner: Result<T, DropReason>,
    /// Where the SA stands.
    pub usage: Usage,
}

/// The receiving half of a Child SA.
#[derive(Debug)]
pub struct InboundSa {
    spi: u32,
    key: PacketKey,
    selectors: SelectorPair,
    window: ReplayWindow,
    icmp_check: IcmpCheck,
    meter: Meter,
    drops: DropCounters,
}

impl InboundSa {
    /// An SA with a replay window of `window` packets, 0 for none.
    pub fn new(config: SaConfig<'_>, window: u32) -> Result<Self, SaError> {
        Self::with_key(config.packet_key()?, config, window)
    }

    /// The same for measurements of what is not cipher: what comes is believed and read as it is.
    #[cfg(feature = "unsealed")]
    pub fn unsealed(config: SaConfig<'_>, window: u32) -> Result<Self, SaError> {
        Self::with_key(config.no_key(), config, window)
    }

    fn with_key(key: PacketKey, config: SaConfig<'_>, window: u32) -> Result<Self, SaError> {
        Ok(Self {
            spi: config.spi,
            key,
            selectors: config.selectors,
            window: ReplayWindow::new(window, config.has_esn, config.last_sequence)?,
            icmp_check: IcmpCheck::default(),
            meter: Meter::new(config.limits, config.suite, config.has_esn),
            drops: DropCounters::default(),
        })
    }

    /// With another way to look at ICMP errors.
    pub fn with_icmp_check(self, icmp_check: IcmpCheck) -> Self {
        Self { icmp_check, ..self }
    }

    /// Open an ESP packet in place, from SPI to ICV; `outer_tos` is that of the header it came under.
    ///
    /// In the order of RFC 4303 3.4 and RFC 4301 5.2: size, window, ICV, window again, padding, next header, inner
    /// lengths, selectors, ECN. An error means that nothing was authentic and nothing has changed but a counter. The
    /// caller found the SA by SPI. Every drop, `Opened::inner` included, is counted here, too.
    pub fn open(&self, packet: &mut [u8], outer_tos: u8) -> Result<Opened, DropReason> {
        let (sequence, is_newest, text) = self
            .authenticate(packet)
            .inspect_err(|&reason| self.drops.count(reason))?;
        let inner = self.decapsulate(packet, text, outer_tos);
        Ok(Opened {
            sequence,
            is_newest,
            usage: self.meter_opened(inner.as_ref().map(|inner| inner.range.len())),
            inner,
        })
    }

    /// The same for an SA whose payloads are AGGFRAG's, up to where the payload stands; no other next header is taken
    /// (RFC 9347 2.3). What is in it has still to pass `admit`, packet by packet.
    pub fn open_payload(&self, packet: &mut [u8]) -> Result<Opened<Range<usize>>, DropReason> {
        let (sequence, is_newest, text) = self
            .authenticate(packet)
            .inspect_err(|&reason| self.drops.count(reason))?;
        let inner = match strip_trailer(packet, text) {
            Ok((aggfrag::NEXT_HEADER, payload)) => Ok(payload),
            Ok(_) => Err(DropReason::BadNextHeader),
            Err(reason) => Err(reason),
        };
        Ok(Opened {
            sequence,
            is_newest,
            usage: self.meter_opened(inner.as_ref().map(Range::len)),
            inner,
        })
    }

    /// Read an inner packet out of an AGGFRAG payload, and check it against the selectors (RFC 4301 5.2, step 4).
    ///
    /// A mark of congestion outside says nothing of any one inner packet (RFC 9347 3.1). A drop is counted here, too.
    pub fn admit(&self, octets: &[u8]) -> Result<IpPacket, DropReason> {
        IpPacket::parse(octets)
            .and_then(|inner| self.check_selectors(inner, octets))
            .inspect_err(|&reason| self.drops.count(reason))
    }

    /// RFC 4301 5.2, step 4; RFC 4301 6.2 for ICMP errors, which pass for what they quote.
    fn check_selectors(&self, inner: IpPacket, octets: &[u8]) -> Result<IpPacket, DropReason> {
        let is_inside = self.selectors.takes_inbound(&inner.flow);
        let is_looked_into = if is_inside {
            self.icmp_check == IcmpCheck::Strict && icmp_error::is_error(&inner)
        } else {
            icmp_error::may_pass_for_its_quote(&inner)
        };
        if !is_looked_into {
            return is_inside
                .then_some(inner)
                .ok_or(DropReason::OutsideSelectors);
        }
        icmp_error::return_flow(&inner, octets)
            .filter(|flow| self.selectors.takes_inbound(flow))
            .map(|_| inner)
            .ok_or(DropReason::IcmpMismatch)
    }

    /// Count the octets of what an authentic packet held, or why it was dropped.
    fn meter_opened(&self, octets: Result<usize, &DropReason>) -> Usage {
        match octets {
            Ok(octets) => self.meter.count(octets),
            Err(reason) => {
                self.drops.count(*reason);
                Usage::Fresh
            }
        }
    }

    fn authenticate(&self, packet: &mut [u8]) -> Result<(u64, bool, Range<usize>), DropReason> {
        self.key.check_size(packet.len())?;
        let low = wire::sequence_low(packet).ok_or(DropReason::TooShort)?;
        let sequence = self.window.candidate(low).ok_or(DropReason::Replayed)?;
        if !self.meter.has_room() {
            return Err(DropReason::HardLimit);
        }
        let text = self.key.open(packet, sequence)?;
        let is_newest = self.window.accept(sequence).ok_or(DropReason::Replayed)?;
        Ok((sequence, is_newest, text))
    }

    fn decapsulate(
        &self,
        packet: &mut [u8],
        text: Range<usize>,
        outer_tos: u8,
    ) -> Result<Inner, DropReason> {
        let (next_header, payload) = strip_trailer(packet, text)?;
        match next_header {
            protocol::NONE => return Err(DropReason::Dummy),
            protocol::IPV4 | protocol::IPV6 => {}
            aggfrag::NEXT_HEADER => return Err(DropReason::AggfragUnexpected),
            _ => return Err(DropReason::BadNextHeader),
        }
        let inner = IpPacket::parse(&packet[payload.clone()])?;
        if inner.next_header() != next_header {
            return Err(DropReason::MalformedInner);
        }
        let inner = self.check_selectors(inner, &packet[payload.clone()])?;
        let tos = ecn::inner_tos(inner.tos, outer_tos)?;
        // RFC 4303 2.7: what follows the inner packet's own length is padding for traffic flow confidentiality.
        let range = payload.start..payload.start + inner.length;
        if tos != inner.tos {
            wire::set_tos(&mut packet[range.clone()], tos);
        }
        Ok(Inner {
            range,
            packet: inner,
        })
    }

    /// Our SPI.
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// Row of the table of suites.
    pub fn suite(&self) -> Suite {
        self.key.suite()
    }

    /// What may come out of it.
    pub fn selectors(&self) -> &SelectorPair {
        &self.selectors
    }

    /// Highest sequence number authenticated.
    pub fn highest_sequence(&self) -> u64 {
        self.window.highest()
    }

    /// Packets and octets of inner packets carried.
    pub fn carried(&self) -> (u64, u64) {
        self.meter.carried()
    }

    /// What it dropped. The caller may count drops of its own here.
    pub fn drops(&self) -> &DropCounters {
        &self.drops
    }

    /// Other limits from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.meter.set(limits);
    }
}

/// Next header and payload of decrypted text, after a look at its padding (RFC 4303 2.4: SHOULD be inspected).
fn strip_trailer(packet: &[u8], text: Range<usize>) -> Result<(u8, Range<usize>), DropReason> {
    let end = text
        .end
        .checked_sub(ESP_TRAILER)
        .filter(|&end| end >= text.start)
        .ok_or(DropReason::BadPadding)?;
    let pad = usize::from(packet[end]);
    let payload_end = end
        .checked_sub(pad)
        .filter(|&at| at >= text.start)
        .ok_or(DropReason::BadPadding)?;
    let counts_up = packet[payload_end..end]
        .iter()
        .zip(1_u8..=u8::MAX)
        .all(|(&octet, number)| octet == number);
    if !counts_up {
        return Err(DropReason::BadPadding);
    }
    Ok((packet[end + 1], text.start..payload_end))
}

#[cfg(test)]
#[path = "sa_tests.rs"]
mod tests;
