//! NAT keep-alives (RFC 3948 2.3): one octet on each path that has been silent too long.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use openmoat_esp::drops::{DropCounters, DropReason};
use openmoat_io::{Outgoing, Path};

use crate::lock::locked;
use crate::outer_sockets::OuterSockets;
use crate::tables::pair::Pair;

const KEEPALIVE: [u8; 1] = [0xff];

/// When a path was last used, and how long it may be silent.
struct Use {
    last_sent: u64,
    interval: u64,
}

/// Pairs whose paths are kept open, by handle. Looked at once a second.
pub struct KeepAlives {
    pairs: Mutex<HashMap<u32, Arc<Pair>>>,
    sockets: Arc<OuterSockets>,
    drops: Arc<DropCounters>,
}

impl KeepAlives {
    /// None yet.
    pub fn new(sockets: Arc<OuterSockets>, drops: Arc<DropCounters>) -> Self {
        Self {
            pairs: Mutex::default(),
            sockets,
            drops,
        }
    }

    /// Whether there is nothing to keep open.
    pub fn is_empty(&self) -> bool {
        locked(&self.pairs).is_empty()
    }

    /// Keep the path of this pair open, or not where its interval is 0.
    pub fn set(&self, pair: &Arc<Pair>, interval: u64) {
        if interval == 0 {
            self.remove(pair.handle);
        } else {
            locked(&self.pairs).insert(pair.handle, Arc::clone(pair));
        }
    }

    /// Let go of a pair.
    pub fn remove(&self, handle: u32) {
        locked(&self.pairs).remove(&handle);
    }

    /// Let go of all.
    pub fn clear(&self) {
        locked(&self.pairs).clear();
    }

    /// Send what is due at `now`. Pairs of one path share its keep-alives.
    pub fn tick(&self, now: u64) {
        for (path, last) in self.uses(now) {
            if now.saturating_sub(last.last_sent) < last.interval {
                continue;
            }
            let Some(socket) = self.sockets.udp_socket(&path.local) else {
                continue;
            };
            let mut lost = Vec::new();
            self.sockets.senders(0)[socket].send_batch(
                &KEEPALIVE,
                &[datagram(&path)],
                0,
                &mut lost,
            );
            self.drops
                .count_many(DropReason::SendFailed, lost.len() as u64);
            self.note_sent(path, now);
        }
    }

    fn uses(&self, now: u64) -> HashMap<Path, Use> {
        let mut uses: HashMap<Path, Use> = HashMap::new();
        for pair in locked(&self.pairs).values() {
            let Some(outbound) = pair.outbound.get() else {
                continue;
            };
            let settings = outbound.settings.load();
            if !settings.carriage.is_udp || settings.keepalive == 0 || settings.is_expired(now) {
                continue;
            }
            // One that has sent nothing yet counts from now on.
            let _ =
                outbound
                    .last_sent
                    .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            let last_sent = outbound.last_sent.load(Ordering::Relaxed);
            let found = uses.entry(settings.carriage.path).or_insert(Use {
                last_sent,
                interval: settings.keepalive,
            });
            found.last_sent = found.last_sent.max(last_sent);
            found.interval = found.interval.min(settings.keepalive);
        }
        uses
    }

    fn note_sent(&self, path: Path, now: u64) {
        for pair in locked(&self.pairs).values() {
            if let Some(outbound) = pair
                .outbound
                .get()
                .filter(|o| o.settings.load().carriage.path == path)
            {
                outbound.last_sent.fetch_max(now, Ordering::Relaxed);
            }
        }
    }
}

fn datagram(path: &Path) -> Outgoing {
    Outgoing {
        octets: 0..KEEPALIVE.len(),
        local: path.local,
        remote: path.remote,
        tos: 0,
        df: false,
        fragment_size: 0,
        segment: 0,
        tag: 0,
    }
}
