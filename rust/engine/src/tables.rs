//! What the packet threads look up: the SAD, a slot per pair, and the SPD with its policies' active pairs.
//!
//! Each slot and each snapshot is one atomic pointer. Python's thread writes, packet threads read; nothing waits.

pub mod send_lock;
pub mod spis;
pub mod writer;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, ArcSwapOption};
use openmoat_esp::drops::DropCounters;
use openmoat_esp::reassembly::{Budget, Reassembler};
use openmoat_esp::sa::{InboundSa, OutboundSa};
use openmoat_esp::spd::{Policy, Spd};
use openmoat_io::Path;

use crate::command::Carriage;
use crate::events::flag;
use crate::sizes::ladder::DeedCounters;
use crate::sizes::plan::{Framing, MtuPlan};
use crate::sizes::probe::Echo;
use crate::sizes::suspicion::Suspicion;
use crate::tables::send_lock::Turnstile;

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

/// What AGGFRAG made of inner packets on one SA. Who writes is alone with it: see [`Turnstile`].
#[derive(Default)]
pub struct Packed {
    /// Packets that left.
    pub packets: AtomicU64,
    /// Their octets.
    pub octets: AtomicU64,
    /// Those that left whole beside others.
    pub packed: AtomicU64,
    /// Those that left in slices.
    pub sliced: AtomicU64,
    /// Slices of them.
    pub slices: AtomicU64,
}

/// The outbound half of a pair.
pub struct Outbound {
    /// Keys, sequence number, selectors.
    pub sa: OutboundSa,
    /// Whose packets it carries.
    pub policy: u32,
    /// What may change.
    pub settings: ArcSwap<Settings>,
    /// Clock of the last packet sent.
    pub last_sent: AtomicU64,
    /// Keeps numbers in order where there are several outbound workers.
    pub turnstile: Turnstile,
    /// With AGGFRAG.
    pub packed: Packed,
    /// With AGGFRAG, where the peer sends marks back.
    pub echo: Option<Box<Echo>>,
}

impl Outbound {
    /// Inner packets and their octets that left by it.
    pub fn carried(&self) -> (u64, u64) {
        match self.settings.load().plan.framing {
            Framing::Whole => self.sa.carried(),
            Framing::Aggfrag => (
                self.packed.packets.load(Ordering::Relaxed),
                self.packed.octets.load(Ordering::Relaxed),
            ),
        }
    }
}

/// What AGGFRAG needs on receipt.
pub struct Assembly {
    /// Pieces that wait for others. Whoever steers packets lets those of one SA come to one worker, so that nobody ever
    /// waits for this lock.
    pub reassembler: Mutex<Reassembler>,
    /// A worker looks after what is held.
    pub is_looked_after: AtomicBool,
    /// Inner packets that came out.
    pub packets: AtomicU64,
    /// Their octets.
    pub octets: AtomicU64,
    /// Those that were put together.
    pub assembled: AtomicU64,
    /// Payloads in which the peer said something of the path.
    pub reports: AtomicU64,
    /// Payloads that a router has marked.
    pub marks: AtomicU64,
}

impl Assembly {
    /// Nothing has come yet.
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self {
            reassembler: Mutex::new(Reassembler::new(Arc::clone(budget))),
            is_looked_after: AtomicBool::new(false),
            packets: AtomicU64::new(0),
            octets: AtomicU64::new(0),
            assembled: AtomicU64::new(0),
            reports: AtomicU64::new(0),
            marks: AtomicU64::new(0),
        }
    }
}

/// The next odd value of [`Pair::usual`].
static UNUSUAL: AtomicU64 = AtomicU64::new(3);

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
    /// Where packets are expected from.
    pub expected: ArcSwap<Path>,
    /// Where the newest came from, while it is elsewhere.
    pub new_path: ArcSwapOption<Path>,
    /// Mark of the path from which packets tell nothing new; odd while it must be found out.
    pub usual: AtomicU64,
    /// Whether large packets arrive.
    pub suspicion: Suspicion,
    /// Drops of neither half: rate limits, queues, the network.
    pub drops: DropCounters,
    /// What was done about sizes.
    pub deeds: DeedCounters,
    /// Next identification for packets whose own says nothing.
    identification: AtomicU32,
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
            expected: ArcSwap::from_pointee(expected),
            new_path: ArcSwapOption::empty(),
            usual: AtomicU64::new(1),
            suspicion: Suspicion::default(),
            drops: DropCounters::default(),
            deeds: DeedCounters::default(),
            identification: AtomicU32::new(handle), // as good as chance, and another one after a rekey
        }
    }

    /// What is known by marks, once there is an outbound half whose peer sends them back.
    pub fn echo(&self) -> Option<&Echo> {
        self.outbound.get()?.echo.as_deref()
    }

    /// Identifications for so many packets that are fragmented before ESP; answers the first.
    pub fn identify(&self, packets: usize) -> u16 {
        self.identification
            .fetch_add(packets as u32, Ordering::Relaxed) as u16
    }

    /// Set flags; answers whether one of them is new.
    pub fn raise(&self, flags: u32) -> bool {
        // The common case, nothing new, costs no exclusive access.
        self.flags.load(Ordering::Relaxed) & flags != flags
            && self.flags.fetch_or(flags, Ordering::SeqCst) & flags != flags
    }

    /// Packets come from where they are expected: there is no new path any more.
    pub fn settle(&self) {
        self.new_path.store(None);
        self.flags.fetch_and(!flag::NEW_PATH, Ordering::SeqCst);
        // A number of its own each time, so that a packet thread that looked before cannot take it for what it saw.
        self.usual
            .store(UNUSUAL.fetch_add(2, Ordering::SeqCst), Ordering::SeqCst);
    }
}

/// What a packet thread holds of a slot for the length of a turn.
pub type Found = arc_swap::Guard<Option<Arc<Pair>>>;

/// The security association database: a slot per pair, found by the low bits of the SPI.
pub struct Sad {
    slots: Box<[ArcSwapOption<Pair>]>,
}

impl Sad {
    /// Empty, for a power of two of slots.
    pub fn new(slots: usize) -> Self {
        Self {
            slots: (0..slots).map(|_| ArcSwapOption::empty()).collect(),
        }
    }

    /// The slot an SPI belongs to.
    pub fn slot(&self, spi: u32) -> usize {
        spi as usize & (self.slots.len() - 1)
    }

    /// The pair with this inbound SPI.
    pub fn find(&self, spi: u32) -> Option<Arc<Pair>> {
        self.slots[self.slot(spi)]
            .load_full()
            .filter(|pair| pair.handle == spi)
    }

    /// The same for a packet: no count of references is touched, which many threads might share.
    pub fn look_up(&self, spi: u32) -> Found {
        self.slots[self.slot(spi)].load()
    }

    /// The pair in a slot.
    pub fn at(&self, slot: usize) -> Option<Arc<Pair>> {
        self.slots[slot].load_full()
    }

    /// Put a pair into its slot.
    pub fn insert(&self, pair: Arc<Pair>) {
        self.slots[self.slot(pair.handle)].store(Some(pair));
    }

    /// Take the pair with this SPI out.
    pub fn remove(&self, spi: u32) -> Option<Arc<Pair>> {
        self.find(spi)?;
        self.slots[self.slot(spi)].swap(None)
    }

    /// All pairs.
    pub fn pairs(&self) -> impl Iterator<Item = Arc<Pair>> + '_ {
        self.slots.iter().filter_map(ArcSwapOption::load_full)
    }
}

/// The active pairs of one policy, the newest first.
#[derive(Default)]
pub struct ActivePairs(ArcSwap<Vec<Arc<Pair>>>);

impl ActivePairs {
    /// All of them, as they are now.
    pub fn load(&self) -> Arc<Vec<Arc<Pair>>> {
        self.0.load_full()
    }

    /// Put `pair` before all others.
    pub fn prefer(&self, pair: &Arc<Pair>) {
        self.0.rcu(|pairs| {
            let others = pairs.iter().filter(|other| other.handle != pair.handle);
            std::iter::once(pair)
                .chain(others)
                .map(Arc::clone)
                .collect::<Vec<_>>()
        });
    }

    /// Take the pair of this handle out.
    pub fn remove(&self, handle: u32) {
        self.0.rcu(|pairs| {
            pairs
                .iter()
                .filter(|pair| pair.handle != handle)
                .map(Arc::clone)
                .collect::<Vec<_>>()
        });
    }
}

/// What serves a policy. Lives on when its policy is replaced by one of the same id.
#[derive(Default)]
pub struct Service {
    /// Active pairs.
    pub pairs: ActivePairs,
    /// Clock before which no further `Acquire` is reported.
    pub quiet_until: AtomicU64,
}

/// A policy and what serves it.
pub struct Served {
    /// What it selects and what happens.
    pub policy: Policy,
    /// Its pairs.
    pub service: Arc<Service>,
}

impl AsRef<Policy> for Served {
    fn as_ref(&self) -> &Policy {
        &self.policy
    }
}

/// The policies now, and a number that changes with every applied batch.
#[derive(Default)]
pub struct Tables {
    /// Replaced whole; what did not change is shared with the one before.
    pub policies: ArcSwap<Spd<Served>>,
    generation: AtomicU64,
}

impl Tables {
    /// Changes with every applied batch: what was looked up before must be looked up again.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// A batch is complete.
    pub fn advance(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}
