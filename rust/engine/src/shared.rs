//! What the packet threads and Python's thread share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openmoat_esp::drops::DropCounters;
use openmoat_esp::reassembly::{Budget, MAX_HELD_BY_ALL};
use openmoat_io::{DeviceError, EventFd, Offloads, OuterSocket, SocketKind, TunDevice};

use crate::command::Carriage;
use crate::errands::Errands;
use crate::events::{Events, flag};
use crate::inbound::ike_queues::IkeQueues;
use crate::offloads::Probed;
use crate::outbound::echoes::Echoes;
use crate::sizes::ladder::IdentifierGuard;
use crate::sizes::plan::MtuPlan;
use crate::sizes::probe::Echo;
use crate::tables::{Pair, Sad, Tables};

/// The port on which ESP and IKE share datagrams (RFC 3948 2).
pub const NATT_PORT: u16 = 4500;

/// Bounds of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Pairs; rounded up to a power of two.
    pub slots: usize,
    /// Datagrams in each of the three queues for IKE.
    pub ike_queue: usize,
    /// Unauthenticated events that wait.
    pub noise: usize,
    /// Whether packets are sealed; false in measurements of what is not cipher, where all goes in clear.
    pub seals: bool,
    /// Offloads of the kernel to be used where they are there.
    pub offloads: Offloads,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            slots: 65_536,
            ike_queue: 1_024,
            noise: 256,
            seals: true,
            offloads: Offloads::ALL,
        }
    }
}

/// Everything shared.
pub struct Shared {
    /// Queues of the TUN device, one a worker.
    pub tun: Vec<Arc<dyn TunDevice>>,
    /// The outside, all of it.
    pub sockets: Vec<Arc<dyn OuterSocket>>,
    /// The same, shared out.
    pub outside: Outside,
    /// Pairs.
    pub sad: Sad,
    /// Policies.
    pub tables: Tables,
    /// News for the daemon.
    pub events: Events,
    /// IKE datagrams.
    pub ike: IkeQueues,
    /// Drops of no pair.
    pub drops: DropCounters,
    /// Pairs whose paths are kept open, by handle. Looked at once a second.
    pub kept_open: Mutex<HashMap<u32, Arc<Pair>>>,
    /// One for each packet thread: those of the outbound ones, then those of the inbound ones.
    pub threads: Vec<Doorbell>,
    /// The threads must end.
    pub is_stopping: AtomicBool,
    /// What the kernel does for us.
    pub offloads: Probed,
    /// Turns that ended in a panic.
    pub faults: AtomicU64,
    /// See [`Config::seals`].
    pub seals: bool,
    /// Bound on outer fragments.
    pub identifiers: IdentifierGuard,
    /// Memory of all pieces of AGGFRAG that wait for others.
    pub budget: Arc<Budget>,
    /// ICMP errors that wait to be sealed, one queue for each outbound worker.
    pub errands: Vec<Errands>,
    /// Pairs that have marks to send, one queue for each outbound worker.
    pub echoes: Vec<Echoes>,
}

impl Shared {
    /// Nothing installed.
    pub fn new(
        tun: Vec<Arc<dyn TunDevice>>,
        sockets: Vec<Arc<dyn OuterSocket>>,
        config: Config,
    ) -> Result<Self, DeviceError> {
        let workers = tun.len().max(1);
        Ok(Self {
            tun,
            outside: Outside::new(&sockets, workers),
            sockets,
            sad: Sad::new(config.slots),
            tables: Tables::default(),
            events: Events::new(config.slots, config.noise)?,
            ike: IkeQueues::new(config.ike_queue)?,
            drops: DropCounters::default(),
            kept_open: Mutex::default(),
            threads: (0..2 * workers)
                .map(|_| Doorbell::new())
                .collect::<Result<_, _>>()?,
            is_stopping: AtomicBool::new(false),
            offloads: Probed::new(config.offloads),
            faults: AtomicU64::new(0),
            seals: config.seals,
            identifiers: IdentifierGuard::default(),
            budget: Arc::new(Budget::new(MAX_HELD_BY_ALL)),
            errands: (0..workers).map(|_| Errands::default()).collect(),
            echoes: (0..workers).map(|_| Echoes::default()).collect(),
        })
    }

    /// Outbound workers, and inbound ones: as many as there are queues of the TUN device.
    pub fn workers(&self) -> usize {
        self.threads.len() / 2
    }

    /// Doorbell of an outbound worker.
    pub fn outbound_bell(&self, worker: usize) -> &Doorbell {
        &self.threads[worker]
    }

    /// Doorbell of an inbound worker.
    pub fn inbound_bell(&self, worker: usize) -> &Doorbell {
        &self.threads[self.workers() + worker]
    }

    /// Let the outbound workers look at the tables.
    pub fn wake_outbound(&self) {
        for bell in &self.threads[..self.workers()] {
            bell.wake.signal();
        }
    }

    /// The sockets that a worker sends by; the same kind stands at the same place for all workers.
    pub fn senders(&self, worker: usize) -> &[Arc<dyn OuterSocket>] {
        &self.outside.senders[worker]
    }

    /// The socket that carries ESP so, by its place among those of any worker.
    pub fn socket_for(&self, carriage: &Carriage) -> Option<usize> {
        let local = &carriage.path.local;
        if carriage.is_udp {
            return self.udp_socket(local);
        }
        let fits = |socket: &Arc<dyn OuterSocket>| {
            socket.kind() == SocketKind::Raw && socket.is_v6() == local.is_ipv6()
        };
        self.senders(0).iter().position(fits)
    }

    /// The UDP socket of this family and local port, by its place.
    pub fn udp_socket(&self, local: &SocketAddr) -> Option<usize> {
        let kind = SocketKind::Udp { port: local.port() };
        self.senders(0)
            .iter()
            .position(|socket| socket.kind() == kind && socket.is_v6() == local.is_ipv6())
    }

    /// A packet, or a payload, of so many octets has left by a pair: do large ones arrive?
    pub fn watch(&self, pair: &Pair, plan: &MtuPlan, length: usize, now: u64) {
        // A peer that says what it gets says more than silence does.
        let is_said = || pair.echo().is_some_and(Echo::is_heard);
        if plan.watches(length) && !is_said() && pair.suspicion.send(now) {
            self.raise(pair, flag::SUSPECT);
        }
    }

    /// Raise flags of a pair and report them if they are new.
    pub fn raise(&self, pair: &Pair, flags: u32) {
        if pair.raise(flags) {
            self.events.tell_state(self.sad.slot(pair.handle));
        }
    }
}

/// Sockets of the outside, shared out among workers.
///
/// Those of one kind and family are replicas: the first belongs to the first worker, and so on. Whoever opened them sees
/// to it that the packets of one SA reach one of them. One more than there are workers takes what is no ESP packet.
pub struct Outside {
    senders: Vec<Vec<Arc<dyn OuterSocket>>>,
    /// What each inbound worker receives from; first what carries IKE alone.
    pub receivers: Vec<Vec<Arc<dyn OuterSocket>>>,
}

impl Outside {
    fn new(sockets: &[Arc<dyn OuterSocket>], workers: usize) -> Self {
        let mut groups: Vec<Vec<&Arc<dyn OuterSocket>>> = Vec::new();
        for socket in sockets {
            let is_like = |group: &&mut Vec<&Arc<dyn OuterSocket>>| {
                group[0].kind() == socket.kind() && group[0].is_v6() == socket.is_v6()
            };
            match groups.iter_mut().find(is_like) {
                Some(group) => group.push(socket),
                None => groups.push(vec![socket]),
            }
        }
        let sender = |worker: usize| {
            let replica =
                |group: &Vec<&Arc<dyn OuterSocket>>| Arc::clone(group[worker.min(group.len() - 1)]);
            groups.iter().map(replica).collect()
        };
        let mut receivers = vec![Vec::new(); workers];
        for group in &groups {
            for (replica, socket) in group.iter().enumerate() {
                let owner = if replica < workers { replica } else { 0 };
                if replica >= workers || carries_ike_alone(socket.kind()) {
                    receivers[owner].insert(0, Arc::clone(socket));
                } else {
                    receivers[owner].push(Arc::clone(socket));
                }
            }
        }
        Self {
            senders: (0..workers).map(sender).collect(),
            receivers,
        }
    }
}

fn carries_ike_alone(kind: SocketKind) -> bool {
    matches!(kind, SocketKind::Udp { port } if port != NATT_PORT)
}

/// How Python's thread wakes a packet thread, and sees that it has let go of what it held.
pub struct Doorbell {
    /// Readable when there is a reason to look at the tables.
    pub wake: EventFd,
    /// Odd while the thread is in a turn.
    turn: AtomicU64,
}

impl Doorbell {
    fn new() -> Result<Self, DeviceError> {
        Ok(Self {
            wake: EventFd::new()?,
            turn: AtomicU64::new(0),
        })
    }

    /// For poll(2).
    pub fn wake_fd(&self) -> RawFd {
        self.wake.as_fd().as_raw_fd()
    }

    /// The thread begins a turn: what it looks up from now on is current.
    pub fn begin(&self) {
        self.turn.fetch_add(1, Ordering::SeqCst);
    }

    /// The thread ends its turn and holds nothing but its cache, which it looks at only in a turn.
    pub fn end(&self) {
        self.turn.fetch_add(1, Ordering::SeqCst);
    }

    /// Wait until the thread is between turns, or in a later one than now: nobody uses what was taken out before.
    ///
    /// A turn is one batch, some hundred microseconds.
    pub fn wait_for_turn(&self) {
        let turn = self.turn.load(Ordering::SeqCst);
        if turn.is_multiple_of(2) {
            return;
        }
        while self.turn.load(Ordering::SeqCst) == turn {
            std::thread::yield_now();
        }
    }
}

/// Run one turn between two strokes of the bell. A panic is a bug: it is counted, and costs one batch.
pub fn in_turn(shared: &Shared, bell: &Doorbell, turn: impl FnOnce()) -> bool {
    bell.begin();
    let is_done = catch_unwind(AssertUnwindSafe(turn)).is_ok();
    if !is_done {
        shared.faults.fetch_add(1, Ordering::Relaxed);
    }
    bell.end();
    is_done
}

/// A lock whose data stays valid where a holder panicked.
pub fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
