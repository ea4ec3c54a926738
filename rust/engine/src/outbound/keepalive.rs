//! NAT keep-alives (RFC 3948 2.3): one octet on each path that has been silent too long.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use openmoat_esp::drops::DropReason;
use openmoat_io::{Outgoing, Path};

use crate::shared::{Shared, locked};

const KEEPALIVE: [u8; 1] = [0xff];

/// When a path was last used, and how long it may be silent.
struct Use {
    last_sent: u64,
    interval: u64,
}

/// Send what is due at `now`. Pairs of one path share its keep-alives.
pub fn tick(shared: &Shared, now: u64) {
    for (path, last) in uses(shared, now) {
        if now.saturating_sub(last.last_sent) < last.interval {
            continue;
        }
        let Some(socket) = shared.udp_socket(&path.local) else {
            continue;
        };
        let datagram = Outgoing {
            octets: 0..KEEPALIVE.len(),
            local: path.local,
            remote: path.remote,
            tos: 0,
            df: false,
            fragment_size: 0,
            segment: 0,
            tag: 0,
        };
        let mut lost = Vec::new();
        shared.senders(0)[socket].send_batch(&KEEPALIVE, &[datagram], 0, &mut lost);
        shared
            .drops
            .count_many(DropReason::SendFailed, lost.len() as u64);
        note_sent(shared, path, now);
    }
}

fn uses(shared: &Shared, now: u64) -> HashMap<Path, Use> {
    let mut uses: HashMap<Path, Use> = HashMap::new();
    for pair in locked(&shared.kept_open).values() {
        let Some(outbound) = pair.outbound.get() else {
            continue;
        };
        let settings = outbound.settings.load();
        if !settings.carriage.is_udp || settings.keepalive == 0 || settings.is_expired(now) {
            continue;
        }
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

fn note_sent(shared: &Shared, path: Path, now: u64) {
    for pair in locked(&shared.kept_open).values() {
        if let Some(outbound) = pair
            .outbound
            .get()
            .filter(|o| o.settings.load().carriage.path == path)
        {
            outbound.last_sent.fetch_max(now, Ordering::Relaxed);
        }
    }
}
