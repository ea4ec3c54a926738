//! Two engines back to back over devices that cost only a copy: what goes through them is recorded, then received.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use openmoat_engine::command::{AddInbound, AddOutbound, Carriage, Command, Keys, NEVER};
use openmoat_engine::plan::MtuPlan;
use openmoat_engine::{Config, Engine};
use openmoat_esp::meter::Limits;
use openmoat_esp::selectors::{Selector, SelectorPair};
use openmoat_esp::spd::{Action, Missing, Policy};
use openmoat_esp::suite::Suite;
use openmoat_io::{
    BATCH, EventFd, OffloadState, Offloads, OuterSocket, Outgoing, PacketBatch, PacketList, Path,
    ReceiveBatch, Received, SocketKind, SocketOffloads, TunDevice, TunOffloads, VnetHeader,
};

pub type Failure = Box<dyn std::error::Error>;

pub const SUITE: &str = "aes128gcm16";
const PORT: u16 = 4500;

/// What is measured of the thread that calls.
pub type Meter = fn() -> u64;

fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is carried, and how it is measured.
pub struct Work {
    /// Pairs, each with a policy and a network of its own.
    pub sas: usize,
    /// Octets of an inner packet.
    pub size: usize,
    /// Packets that go through one pair before it is the next one's turn.
    pub burst: usize,
    /// Packets in all.
    pub packets: usize,
    /// Batches before it counts.
    pub warm_up: usize,
    /// What counts.
    pub meter: Meter,
    /// Sizes, and how packets are framed.
    pub plan: MtuPlan,
}

impl Work {
    /// What the outbound thread took from its first batch that counts to the end, and the inbound one if that is wanted.
    pub fn run(&self, is_inbound: bool) -> Result<(u64, u64), Failure> {
        let line = Arc::new(Line::default());
        let sender = self.engine(1, line.clone())?;
        let receiver = self.engine(2, line.clone())?;
        let handles = (
            sender.engine.reserve_spis(self.sas),
            receiver.engine.reserve_spis(self.sas),
        );
        sender.install(&handles.0, &handles.1, &self.plan)?;
        receiver.install(&handles.1, &handles.0, &self.plan)?;
        line.is_recorded.store(is_inbound, Ordering::Relaxed);
        sender.engine.start()?;
        let out = sender.tun.clock.wait()?;
        let back = if is_inbound {
            receiver.socket.give.signal();
            receiver.engine.start()?;
            receiver.socket.clock.wait()?
        } else {
            0
        };
        let arrived = receiver.tun.arrived.load(Ordering::Relaxed);
        if is_inbound && arrived != self.packets {
            let drops = receiver.engine.read_drops();
            return Err(format!("{arrived} of {} packets: {drops:?}", self.packets).into());
        }
        Ok((out, back))
    }

    fn engine(&self, net: u8, line: Arc<Line>) -> Result<Gateway, Failure> {
        let tun = Arc::new(Host {
            templates: (0..self.sas).map(|n| inner(n, self.size)).collect(),
            burst: self.burst,
            left: AtomicUsize::new(if net == 1 { self.packets } else { 0 }),
            sent: AtomicUsize::new(0),
            arrived: AtomicUsize::new(0),
            clock: Clock::new(self.meter, self.warm_up),
            readable: EventFd::new()?,
        });
        tun.readable.signal();
        let socket = Arc::new(Outside {
            line,
            next: AtomicUsize::new(0),
            clock: Clock::new(self.meter, self.warm_up),
            give: EventFd::new()?,
        });
        let config = Config {
            slots: 16_384,
            ..Config::default()
        };
        let engine = Engine::new(vec![tun.clone()], vec![socket.clone()], config)?;
        Ok(Gateway {
            engine,
            tun,
            socket,
            net,
        })
    }
}

struct Gateway {
    engine: Engine,
    tun: Arc<Host>,
    socket: Arc<Outside>,
    net: u8,
}

impl Gateway {
    /// A policy and an SA for each of the networks.
    fn install(&self, ours: &[u32], theirs: &[u32], plan: &MtuPlan) -> Result<(), Failure> {
        let (mut policies, mut pairs) = (Vec::new(), Vec::new());
        for (number, (inbound, outbound)) in ours.iter().zip(theirs).enumerate() {
            let here: Box<[Selector]> = [range([10, 0, 0, 0], [10, 0, 255, 255])?].into();
            let [a, b] = (number as u16).to_be_bytes();
            let there: Box<[Selector]> = [range([11, a, b, 0], [11, a, b, 255])?].into();
            let (local, remote) = if self.net == 1 {
                (here, there)
            } else {
                (there, here)
            };
            let selectors = SelectorPair { local, remote };
            policies.push(Command::PutPolicy(Box::new(Policy {
                id: number as u32 + 1,
                rank: number as u32 + 1,
                action: Action::Protect,
                missing: Missing::Drop,
                selectors: selectors.clone(),
            })));
            pairs.extend(self.pair(number as u32 + 1, *inbound, *outbound, selectors, plan)?);
        }
        self.engine.apply(policies)?;
        self.engine.apply(pairs)?;
        Ok(())
    }

    fn pair(
        &self,
        policy: u32,
        inbound: u32,
        outbound: u32,
        selectors: SelectorPair,
        plan: &MtuPlan,
    ) -> Result<[Command; 3], Failure> {
        let carriage = Carriage {
            path: Path {
                local: end(self.net),
                remote: end(3 - self.net),
            },
            is_udp: true,
        };
        let add_inbound = AddInbound {
            spi: inbound,
            keys: keys(inbound)?,
            carriage,
            selectors: selectors.clone(),
            replay_window: 1024,
            limits: Limits::default(),
            framing: plan.framing,
            icmp_check: Default::default(),
        };
        let add_outbound = AddOutbound {
            handle: inbound,
            spi: outbound,
            keys: keys(outbound)?,
            carriage,
            selectors,
            policy,
            plan: plan.clone(),
            limits: Limits::default(),
            copies_dscp: true,
            keepalive: 0,
            hard_at: NEVER,
        };
        Ok([
            Command::AddInbound(Box::new(add_inbound)),
            Command::AddOutbound(Box::new(add_outbound)),
            Command::Activate(inbound),
        ])
    }
}

fn range(start: [u8; 4], end: [u8; 4]) -> Result<Selector, Failure> {
    let (start, end) = (IpAddr::from(start), IpAddr::from(end));
    Selector::new(start, end, 0, 0, u16::MAX).map_err(|error| error.to_string().into())
}

fn end(net: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, net], PORT))
}

fn keys(spi: u32) -> Result<Keys, Failure> {
    let suite = Suite::by_name(SUITE).ok_or("no such suite")?;
    Ok(Keys {
        suite,
        has_esn: false,
        key: (0..suite.key_material())
            .map(|n| n as u8 ^ spi as u8)
            .collect::<Vec<_>>()
            .into(),
        integrity_key: Vec::new().into(),
    })
}

/// A UDP datagram of `size` octets, headers included, to network `number`.
fn inner(number: usize, size: usize) -> Vec<u8> {
    let [a, b] = (number as u16).to_be_bytes();
    let [high, low] = (size as u16).to_be_bytes();
    let mut octets = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, 17, 0, 0];
    octets.extend([10, 0, 0, 1, 11, a, b, 1, 0x03, 0xe8, 0x07, 0xd0]);
    octets.extend((size as u16 - 20).to_be_bytes());
    octets.resize(size, 0);
    octets
}

/// Called once a batch: adds up what a thread took between two of its calls in a row.
struct Clock {
    meter: Meter,
    warm_up: usize,
    batches: AtomicUsize,
    /// The thread that called last, what it had taken by then, and the sum.
    last: Mutex<(Option<ThreadId>, u64, u64)>,
    took: Mutex<Option<u64>>,
    ended: Condvar,
}

impl Clock {
    fn new(meter: Meter, warm_up: usize) -> Self {
        Self {
            meter,
            warm_up,
            batches: AtomicUsize::new(0),
            last: Mutex::default(),
            took: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    fn tick(&self) {
        let (now, thread) = ((self.meter)(), Some(thread::current().id()));
        let mut last = locked(&self.last);
        let is_warm = self.batches.fetch_add(1, Ordering::Relaxed) > self.warm_up;
        let (before, by_then, sum) = *last;
        let more = if is_warm && before == thread {
            now - by_then
        } else {
            0
        };
        *last = (thread, now, sum + more);
    }

    fn end(&self) {
        self.tick();
        *locked(&self.took) = Some(locked(&self.last).2);
        self.ended.notify_all();
    }

    fn wait(&self) -> Result<u64, Failure> {
        let took = self
            .ended
            .wait_while(locked(&self.took), |took| took.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        if self.batches.load(Ordering::Relaxed) <= self.warm_up {
            return Err("all batches were warming up".into());
        }
        took.ok_or_else(|| "the thread never ended".into())
    }
}

/// A TUN device whose host sends so many packets and then none.
struct Host {
    templates: Vec<Vec<u8>>,
    burst: usize,
    left: AtomicUsize,
    sent: AtomicUsize,
    arrived: AtomicUsize,
    clock: Clock,
    readable: EventFd,
}

impl TunDevice for Host {
    fn readable(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }

    fn read_batch(&self, batch: &mut PacketBatch) -> io::Result<usize> {
        batch.clear();
        self.clock.tick();
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            self.readable.clear();
            self.clock.end();
            return Ok(0);
        }
        let sent = self.sent.load(Ordering::Relaxed);
        let mut count = 0;
        while let Some(room) = batch.room().filter(|_| count < left) {
            let number = (sent + count) / self.burst % self.templates.len();
            let octets = &self.templates[number];
            room[..octets.len()].copy_from_slice(octets);
            batch.push(VnetHeader::default(), octets.len());
            count += 1;
        }
        self.sent.store(sent + count, Ordering::Relaxed);
        self.left.store(left - count, Ordering::Relaxed);
        Ok(count)
    }

    fn write_batch(&self, _arena: &[u8], list: &PacketList) -> usize {
        self.arrived.fetch_add(list.len(), Ordering::Relaxed);
        0
    }

    fn enable_offloads(&self, _wanted: Offloads) -> TunOffloads {
        TunOffloads {
            tso: OffloadState::On,
            uso: OffloadState::On,
        }
    }
}

/// Sealed packets between the two, recorded whole before they are received.
#[derive(Default)]
struct Line {
    is_recorded: AtomicBool,
    record: Mutex<Record>,
}

/// Octets, and of each datagram where it begins, its length and that of its segments.
type Record = (Vec<u8>, Vec<(usize, usize, usize)>);

/// A socket of that line.
struct Outside {
    line: Arc<Line>,
    next: AtomicUsize,
    clock: Clock,
    give: EventFd,
}

impl OuterSocket for Outside {
    fn kind(&self) -> SocketKind {
        SocketKind::Udp { port: PORT }
    }

    fn is_v6(&self) -> bool {
        false
    }

    fn enable_offloads(&self, _wanted: Offloads) -> SocketOffloads {
        SocketOffloads {
            gso: OffloadState::On,
            gro: OffloadState::On,
        }
    }

    fn segments(&self) -> bool {
        true
    }

    fn readable(&self) -> BorrowedFd<'_> {
        self.give.as_fd()
    }

    fn receive_batch(&self, batch: &mut ReceiveBatch) -> io::Result<usize> {
        batch.datagrams.clear();
        self.clock.tick();
        let record = locked(&self.line.record);
        let next = self.next.load(Ordering::Relaxed);
        let waiting = &record.1[next..record.1.len().min(next + BATCH)];
        for (index, (start, length, segment)) in waiting.iter().enumerate() {
            let (at, room) = batch.room(index);
            room[..*length].copy_from_slice(&record.0[*start..start + length]);
            batch.datagrams.push(Received {
                start: at,
                length: *length,
                segment: *segment,
                local: end(2),
                remote: end(1),
                tos: 0,
            });
        }
        self.next.store(next + waiting.len(), Ordering::Relaxed);
        if waiting.is_empty() {
            self.give.clear();
            self.clock.end();
        }
        Ok(waiting.len())
    }

    fn send_batch(
        &self,
        arena: &[u8],
        datagrams: &[Outgoing],
        _patience: i32,
        lost: &mut Vec<usize>,
    ) {
        lost.clear();
        if !self.line.is_recorded.load(Ordering::Relaxed) {
            return;
        }
        let mut record = locked(&self.line.record);
        for datagram in datagrams {
            let octets = &arena[datagram.octets.clone()];
            let segment = match usize::from(datagram.segment) {
                0 => octets.len(),
                segment => segment,
            };
            let start = record.0.len();
            record.0.extend_from_slice(octets);
            record.1.push((start, octets.len(), segment));
        }
    }
}
