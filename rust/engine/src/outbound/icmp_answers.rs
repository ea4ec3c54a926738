//! ICMP errors on their way back to the host.

use std::sync::Arc;

use openmoat_esp::drops::{DropCounters, DropReason};
use openmoat_io::{BATCH, PacketList, TunDevice, VnetHeader};

use crate::icmp::{IcmpError, MAX_ERROR_V6, RateLimit, write_error};
use crate::sizes::inner_packet::InnerPacket;

/// The errors of one batch, and the bound on all of them.
pub struct IcmpAnswers {
    arena: Vec<u8>,
    list: PacketList,
    rejects: RateLimit,
    too_big: RateLimit,
    tun: Option<Arc<dyn TunDevice>>,
    drops: Arc<DropCounters>,
}

impl IcmpAnswers {
    /// None yet; they will be written to this queue of the host.
    pub fn new(tun: Option<Arc<dyn TunDevice>>, drops: Arc<DropCounters>) -> Self {
        Self {
            arena: vec![0; BATCH * MAX_ERROR_V6],
            list: PacketList::new(),
            rejects: RateLimit::default(),
            too_big: RateLimit::default(),
            tun,
            drops,
        }
    }

    /// Answer a packet with an error, where that is permitted and not too often.
    pub fn answer(&mut self, now: u64, error: IcmpError, inner: &InnerPacket<'_>, per_second: f64) {
        // Buckets of their own, so that a flood of the one kind cannot starve the other.
        let limit = match error {
            IcmpError::Prohibited => &mut self.rejects,
            IcmpError::TooBig(_) => &mut self.too_big,
            IcmpError::HopsExceeded => return, // goes into an SA: see `Outbox`
        };
        if !limit.permits(inner.packet.flow.source, now, per_second, per_second) {
            return;
        }
        if !self.list.has_room() {
            self.send();
        }
        let start = self.list.len() * MAX_ERROR_V6;
        if let Some(size) = write_error(
            error,
            &inner.packet,
            inner.octets,
            None,
            &mut self.arena[start..start + MAX_ERROR_V6],
        ) {
            self.list.push(VnetHeader::default(), start..start + size);
        }
    }

    /// Hand them to the host.
    pub fn send(&mut self) {
        if let (false, Some(tun)) = (self.list.is_empty(), self.tun.as_ref()) {
            let refused = tun.write_batch(&self.arena, &self.list);
            self.drops
                .count_many(DropReason::DeviceFull, refused as u64);
        }
        self.list.clear();
    }
}
