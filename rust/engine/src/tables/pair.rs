//! One Child SA as the packet threads see it: both halves, what may change on them, and what is known of its path.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use openmoat_esp::drops::DropCounters;
use openmoat_esp::reassembly::{Budget, Reassembler};
use openmoat_esp::sa::{InboundSa, OutboundSa};
use openmoat_io::Path;

use crate::command::Carriage;
use crate::events::{Events, flag};
use crate::sizes::fragment::Identifications;
use crate::sizes::ladder::SizeCounters;
use crate::sizes::plan::{Framing, MtuPlan};
use crate::sizes::probe::PathProbe;
use crate::sizes::suspicion::Suspicion;
use crate::tables::path_watch::{Observed, PathWatch};
use crate::tables::sa_counters::{SaCounter, SaCounters};
use crate::tables::send_lock::SendLock;

/// What may change on a live outbound half; replaced whole.
pub struct Settings {
    /// Where to and how.
    pub carriage: Carriage,
    /// Sizes.
    pub plan: MtuPlan,
    /// Nanoseconds of silence before a keep-alive; 0: never.
    pub keepalive: u64,
    /// Clock from which on nothing is sent any more.
    pub hard_at: u64,
}

impl Settings {
    /// Whether the outbound half has reached the end of its hard lifetime (RFC 4301 4.4.2.1).
    pub fn is_expired(&self, now: u64) -> bool {
        now >= self.hard_at
    }
}

/// The outbound half of a pair.
pub struct Outbound {
    /// Keys, sequence number, selectors.
    pub sa: OutboundSa,
    /// Whose packets it carries.
    pub policy: u32,
    /// What may change.
    pub settings: ArcSwap<Settings>,
    /// Clock of the last packet sent; 0 where there was none.
    pub last_sent: AtomicU64,
    /// Keeps numbers in order where there are several outbound workers.
    pub send_lock: SendLock,
    /// What it has carried in AGGFRAG payloads. Who holds `send_lock` is alone with it.
    pub counters: SaCounters,
    /// With AGGFRAG, where the peer answers probes.
    pub probe: Option<Box<PathProbe>>,
}

impl Outbound {
    /// Inner packets, or their octets, that left by it.
    pub fn carried(&self, row: SaCounter) -> u64 {
        let (packets, octets) = self.sa.carried();
        match self.settings.load().plan.framing {
            Framing::Aggfrag => self.counters.read(row),
            Framing::Whole if row == SaCounter::OutboundPackets => packets,
            Framing::Whole => octets,
        }
    }
}

/// What AGGFRAG needs on receipt.
pub struct Assembly {
    /// Pieces that wait for others. Taken once for each run of payloads; packets of one SA are steered to one worker, so
    /// that it is free.
    pub reassembler: Mutex<Reassembler>,
    /// A worker sees to it that what is held expires.
    pub is_looked_after: AtomicBool,
    /// What has come out of payloads.
    pub counters: SaCounters,
}

impl Assembly {
    /// Nothing has come yet.
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self {
            reassembler: Mutex::new(Reassembler::new(Arc::clone(budget))),
            is_looked_after: AtomicBool::new(false),
            counters: SaCounters::default(),
        }
    }
}

/// One Child SA. Its handle is its inbound SPI.
pub struct Pair {
    /// Inbound SPI.
    pub handle: u32,
    /// The inbound half.
    pub inbound: InboundSa,
    /// With AGGFRAG, and only then.
    pub assembly: Option<Box<Assembly>>,
    /// Whether sequence numbers have 64 bits.
    pub has_esn: bool,
    /// The outbound half, once it is there.
    pub outbound: std::sync::OnceLock<Outbound>,
    /// What the daemon has been or will be told; bits of `events::flag`.
    pub flags: AtomicU32,
    /// Where packets come from.
    pub path: PathWatch,
    /// Whether large packets arrive.
    pub suspicion: Suspicion,
    /// Drops of neither half: rate limits, queues, the network.
    pub drops: DropCounters,
    /// What was done about sizes.
    pub size_counters: SizeCounters,
    /// For packets whose own says nothing.
    pub identifications: Identifications,
}

impl Pair {
    /// A pair that receives, AGGFRAG payloads if it has an assembly.
    pub fn new(
        handle: u32,
        inbound: InboundSa,
        assembly: Option<Assembly>,
        has_esn: bool,
        expected: Path,
    ) -> Self {
        Self {
            handle,
            inbound,
            assembly: assembly.map(Box::new),
            has_esn,
            outbound: std::sync::OnceLock::new(),
            flags: AtomicU32::new(0),
            path: PathWatch::new(expected),
            suspicion: Suspicion::default(),
            drops: DropCounters::default(),
            size_counters: SizeCounters::default(),
            identifications: Identifications::new(handle), // unpredictable enough, and another one after a rekey
        }
    }

    /// What is known by probes, once there is an outbound half whose peer answers them.
    pub fn probe(&self) -> Option<&PathProbe> {
        self.outbound.get()?.probe.as_deref()
    }

    /// Set flags, and let the daemon know if one of them is new.
    pub fn raise(&self, flags: u32, events: &Events) {
        // The common case, nothing new, costs no exclusive access.
        if self.flags.load(Ordering::Relaxed) & flags != flags
            && self.flags.fetch_or(flags, Ordering::SeqCst) & flags != flags
        {
            events.tell_state(self.handle);
        }
    }

    /// The daemon knows that packets come from here.
    pub fn expect_path(&self, path: Path) {
        self.path.expect(path);
        self.flags.fetch_and(!flag::NEW_PATH, Ordering::SeqCst);
    }

    /// An authentic packet, newest by sequence number, came by this path.
    pub fn follow(&self, path: &Path, events: &Events) {
        match self.path.observe(path) {
            Observed::Known => return,
            Observed::Moved => self.flags.fetch_or(flag::NEW_PATH, Ordering::SeqCst),
            Observed::Back => self.flags.fetch_and(!flag::NEW_PATH, Ordering::SeqCst),
        };
        events.tell_state(self.handle);
    }

    /// A packet, or a payload, of so many octets has left: do large ones arrive?
    pub fn watch(&self, plan: &MtuPlan, length: usize, now: u64, events: &Events) {
        // A peer that answers probes tells more than silence does.
        let is_answered = || self.probe().is_some_and(PathProbe::is_answered);
        if plan.watches(length) && !is_answered() && self.suspicion.send(now) {
            self.raise(flag::SUSPECT, events);
        }
    }
}
