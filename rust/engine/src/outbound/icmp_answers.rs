//! ICMP errors on their way back to the host.

use openmoat_esp::drops::DropReason;
use openmoat_io::{BATCH, PacketList, VnetHeader};

use crate::icmp::{Complaint, MAX_ERROR_V6, RateLimit, complain};
use crate::shared::Shared;
use crate::sizes::inner_packet::InnerPacket;

/// The errors of one batch, and the bound on all of them.
pub struct Answers {
    arena: Vec<u8>,
    list: PacketList,
    rejects: RateLimit,
    too_big: RateLimit,
    worker: usize,
}

impl Answers {
    /// None yet, of this outbound worker.
    pub fn new(worker: usize) -> Self {
        Self {
            arena: vec![0; BATCH * MAX_ERROR_V6],
            list: PacketList::new(),
            rejects: RateLimit::default(),
            too_big: RateLimit::default(),
            worker,
        }
    }

    /// Answer a packet with an error, where that is permitted and not too often.
    pub fn complain(
        &mut self,
        shared: &Shared,
        now: u64,
        complaint: Complaint,
        inner: &InnerPacket<'_>,
        per_second: f64,
    ) {
        // Buckets of their own, so that a flood of the one kind cannot starve the other.
        let limit = match complaint {
            Complaint::Prohibited => &mut self.rejects,
            Complaint::TooBig(_) => &mut self.too_big,
            Complaint::HopsExceeded => return, // goes into an SA: see `Errands`
        };
        if !limit.permits(inner.packet.flow.source, now, per_second, per_second) {
            return;
        }
        if !self.list.has_room() {
            self.send(shared);
        }
        let start = self.list.len() * MAX_ERROR_V6;
        if let Some(size) = complain(
            complaint,
            &inner.packet,
            inner.octets,
            None,
            &mut self.arena[start..start + MAX_ERROR_V6],
        ) {
            self.list.push(VnetHeader::default(), start..start + size);
        }
    }

    /// Hand them to the host.
    pub fn send(&mut self, shared: &Shared) {
        if let (false, Some(tun)) = (self.list.is_empty(), shared.tun.get(self.worker)) {
            let refused = tun.write_batch(&self.arena, &self.list);
            shared
                .drops
                .count_many(DropReason::DeviceFull, refused as u64);
        }
        self.list.clear();
    }
}
