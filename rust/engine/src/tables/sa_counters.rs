//! The counters of a pair. A row here and a `count` where it happens are all that another one takes: its record in Python
//! (`openmoat.dataplane.declared`) is generated from this.

openmoat_esp::counted! {
    /// What a pair has carried, one row each.
    pub enum SaCounter;
    /// Those of one direction, as far as they are counted; some rows are read elsewhere, see `counters`.
    pub struct SaCounters;

    /// Inner packets that came out of it.
    InboundPackets = "inbound_packets",
    /// Their octets.
    InboundOctets = "inbound_octets",
    /// Inner packets that went into it.
    OutboundPackets = "outbound_packets",
    /// Their octets.
    OutboundOctets = "outbound_octets",
    /// Highest sequence number authenticated.
    InboundSequence = "inbound_sequence",
    /// Last sequence number sent.
    OutboundSequence = "outbound_sequence",
    /// Inner packets that left whole in an ESP packet together with others (AGGFRAG).
    OutboundPacked = "outbound_packed",
    /// Inner packets that left in slices (AGGFRAG).
    OutboundSliced = "outbound_sliced",
    /// Slices of these.
    OutboundSlices = "outbound_slices",
    /// Packets of the size of `MtuPlan.outer_size` whose arrival the peer has confirmed (`MtuPlan.echoes`).
    OutboundProved = "outbound_proved",
    /// Inner packets that were put together from slices (AGGFRAG).
    InboundAssembled = "inbound_assembled",
    /// Payloads in which the peer reported what it knows of the path (RFC 9347 3).
    InboundReports = "inbound_reports",
    /// Payloads that a router has marked: congestion experienced (AGGFRAG).
    InboundMarks = "inbound_marks",
}
