//! Why packets are dropped: one enum, one word each, one counter each. `moat status --json` prints these words.

crate::counted! {
    /// Why a packet was dropped.
    pub enum DropReason;
    /// One counter per reason. Shared by threads; each adds and reads without order.
    pub struct DropCounters;

    /// ESP packet too short for its suite, or with a ciphertext that is no multiple of the block.
    TooShort = "too-short",
    /// No inbound SA has this SPI.
    UnknownSpi = "unknown-spi",
    /// Sequence number seen before, or left of the window (RFC 4303 3.4.3).
    Replayed = "replayed",
    /// The integrity check value does not match (RFC 4303 3.4.4).
    BadIcv = "bad-icv",
    /// Authentic, but pad length or pad octets are not those of RFC 4303 2.4.
    BadPadding = "bad-padding",
    /// Authentic, but carries neither IPv4 nor IPv6 (RFC 4303 2.6), or anything but AGGFRAG where that was agreed
    /// (RFC 9347 2.3).
    BadNextHeader = "bad-next-header",
    /// An inner packet whose own version or lengths do not hold.
    MalformedInner = "malformed-inner",
    /// A dummy packet for traffic flow confidentiality (RFC 4303 2.6): no fault.
    Dummy = "dummy",
    /// Inner packet outside the selectors of its SA (RFC 4301 5.2, step 4).
    OutsideSelectors = "outside-selectors",
    /// An ICMP error whose quoted packet is none of its SA (RFC 4301 6.2).
    IcmpMismatch = "icmp-mismatch",
    /// An inner packet whose hops end here; answered with ICMP where that is allowed.
    HopsExceeded = "hops-exceeded",
    /// An ICMP error of ours for which there was no source address, or no room to wait.
    IcmpUnsent = "icmp-unsent",
    /// Congestion was marked outside on a packet that cannot carry the mark inside (RFC 6040 4.2).
    Congested = "congested",
    /// All sequence numbers of the SA are used (RFC 4303 3.3.3).
    SequenceExhausted = "sequence-exhausted",
    /// The SA has carried its hard limit of octets or packets.
    HardLimit = "hard-limit",
    /// The outbound half of the SA has reached the end of its hard lifetime (RFC 4301 4.4.2.1).
    SaExpired = "sa-expired",
    /// A bounded queue had no room.
    QueueFull = "queue-full",
    /// No policy selects the packet.
    NoPolicy = "no-policy",
    /// A policy says drop.
    PolicyDrop = "policy-drop",
    /// A policy says reject: answered with ICMP where that is allowed.
    PolicyReject = "policy-reject",
    /// A policy says pass, but nothing in clear belongs on the TUN device.
    PolicyPass = "policy-pass",
    /// The policy wants protection and no SA serves the packet.
    NoSa = "no-sa",
    /// Held for an SA that did not come in time.
    HoldExpired = "hold-expired",
    /// As many packets of this policy are held as may be.
    HoldFull = "hold-full",
    /// Larger than the plan lets through; answered with ICMP where that is allowed.
    TooBig = "too-big",
    /// A destination or source no tunnel carries: multicast, broadcast or link-local.
    NotUnicast = "not-unicast",
    /// Outer packet whose headers do not hold together.
    MalformedOuter = "malformed-outer",
    /// A datagram larger than the buffer it was read into.
    Truncated = "truncated",
    /// The network did not take the packet.
    SendFailed = "send-failed",
    /// The TUN device did not take the packet.
    DeviceFull = "device-full",
    /// A buffer too small for what was to be written: our own fault, never the peer's.
    NoRoom = "no-room",
    /// An AGGFRAG payload for an SA on which that was not agreed.
    AggfragUnexpected = "aggfrag-unexpected",
    /// An AGGFRAG payload without a whole header (RFC 9347 6.1).
    AggfragTooShort = "aggfrag-too-short",
    /// An AGGFRAG payload of a sub-type that is not assigned.
    AggfragSubType = "aggfrag-sub-type",
    /// A block that is neither IPv4, IPv6 nor pad, with all that follows it in its payload (RFC 9347 2.2.1).
    AggfragUnknownBlock = "aggfrag-unknown-block",
    /// A block whose own length cannot be, with all that follows it in its payload.
    AggfragBadLength = "aggfrag-bad-length",
    /// A piece whose BlockOffset contradicts its neighbour or the length of the packet (RFC 9347 2.5).
    AggfragBadOffset = "aggfrag-bad-offset",
    /// A piece whose packet was not complete when the window moved on, or nothing more came.
    AggfragIncomplete = "aggfrag-incomplete",
    /// A piece that came when the window had moved on.
    AggfragLate = "aggfrag-late",
    /// A piece for which there was no memory within the bounds.
    AggfragMemory = "aggfrag-memory",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let words: std::collections::HashSet<_> =
            DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(words.len(), DropReason::ALL.len());
        assert!(
            words
                .iter()
                .all(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        );
    }

    #[test]
    fn counters_tell_only_what_happened() {
        let counters = DropCounters::default();
        counters.count(DropReason::BadIcv);
        counters.count_many(DropReason::Replayed, 3);
        let happened: Vec<_> = counters.happened().collect();
        assert_eq!(
            happened,
            [(DropReason::Replayed, 3), (DropReason::BadIcv, 1)]
        );
    }
}
