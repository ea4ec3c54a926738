//! Where AGGFRAG payloads are encrypted: in the room of the bundle, one behind the other.

use std::sync::atomic::Ordering;

use openmoat_esp::meter::Usage;

use crate::events::{Events, flag};
use crate::outbound::bundle::{Address, Bundle};
use crate::tables::pair::{Outbound, Pair};

/// Where payloads go.
pub struct Sink<'a> {
    /// Takes them when they are encrypted.
    pub bundle: &'a mut Bundle,
    /// Learns of limits and of losses.
    pub events: &'a Events,
    /// The engine's clock.
    pub now: u64,
}

impl Sink<'_> {
    /// Encrypt the payload of `size` octets that stands in the room of the bundle. False: it could not be, which is counted;
    /// limits and numbers have been looked at before.
    pub fn seal(
        &mut self,
        pair: &Pair,
        outbound: &Outbound,
        size: usize,
        address: Address,
    ) -> bool {
        let room = self.bundle.room();
        let Ok(sealed) = outbound.sa.seal_payload(room, size) else {
            return false;
        };
        self.bundle.push(sealed.size, address);
        outbound.last_sent.store(self.now, Ordering::Relaxed);
        if sealed.usage == Usage::Soft {
            pair.raise(flag::SOFT_LIMIT, self.events);
        }
        true
    }
}
