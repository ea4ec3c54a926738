//! The engine as Python sees it: commands down, counters and events up. Called by one thread at a time.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use openmoat_esp::drops::{DropCounters, DropReason};
use openmoat_esp::sa::{InboundSa, Limits, MAX_SHORT_SEQUENCE, OutboundSa, SaConfig, SaError};
use openmoat_esp::spd::Policy;
use openmoat_io::{DeviceError, OuterSocket, TunDevice, monotonic};

use crate::command::{AddInbound, AddOutbound, Carriage, Command, Update};
use crate::events::{Event, flag};
use crate::ike::IkeDatagram;
use crate::ike_send::{self, IkeOutgoing};
use crate::ladder::Deed;
use crate::plan::Framing;
use crate::shared::{Config, Shared, locked};
use crate::spis::{MAX_SLOTS, SpiBook};
use crate::tables::{Assembly, Outbound, Packed, Pair, Served, Service, Settings};
use crate::turnstile::Turnstile;
use crate::workers;

/// Packets after which an SA without ESN asks for its replacement at the latest.
const SOFT_SEQUENCE: u64 = MAX_SHORT_SEQUENCE / 8 * 7;

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It names a pair that is not installed.
    #[error("SA {0:08x} is not installed")]
    UnknownSpi(u32),
    /// It names an SPI that was not reserved.
    #[error("SPI {0:08x}: must be one of reserve_spis, this is not reserved")]
    NotReserved(u32),
    /// The pair has its outbound half already.
    #[error("SA {0:08x} has an outbound half already")]
    IsComplete(u32),
    /// The pair has no outbound half yet.
    #[error("SA {0:08x} has no outbound half to activate")]
    IsIncomplete(u32),
    /// Its packets would lie otherwise in payloads than was agreed.
    #[error("SA {0:08x}: framing was agreed with the peer, and cannot change")]
    OtherFraming(u32),
    /// No descriptor carries ESP so.
    #[error("SA {handle:08x}: no socket for ESP from {local} {how}")]
    NoSocket {
        /// Which pair.
        handle: u32,
        /// Our end.
        local: std::net::SocketAddr,
        /// In UDP, or not.
        how: &'static str,
    },
    /// Its keys or its window cannot be.
    #[error("SA {0:08x}: {1}")]
    Sa(u32, SaError),
    /// It has been stopped.
    #[error("the engine has been stopped")]
    IsStopped,
    /// See `DeviceError`.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// What a pair has carried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Which pair.
    pub handle: u32,
    /// Packets and octets that came out of it.
    pub inbound: (u64, u64),
    /// Packets and octets that went into it.
    pub outbound: (u64, u64),
    /// Highest sequence number authenticated.
    pub inbound_sequence: u64,
    /// Last sequence number sent.
    pub outbound_sequence: u64,
    /// By reason.
    pub drops: Vec<(DropReason, u64)>,
    /// What was done about sizes, and to how many inner packets.
    pub deeds: Vec<(Deed, u64)>,
    /// Inner packets that left whole beside others in one payload, that left in slices, and slices.
    pub outbound_packed: (u64, u64, u64),
    /// Inner packets that were put together from slices.
    pub inbound_assembled: u64,
    /// AGGFRAG payloads in which the peer said something of the path.
    pub inbound_reports: u64,
}

struct Control {
    spis: SpiBook,
    /// What serves the policies there are, and those that live pairs still name.
    services: HashMap<u32, Arc<Service>>,
    /// Policies put, or taken away where None, that the packet threads do not know of yet.
    changes: HashMap<u32, Option<Policy>>,
    threads: Vec<JoinHandle<()>>,
    is_stopped: bool,
}

/// Threads that carry packets between one TUN device and the outside.
pub struct Engine {
    shared: Arc<Shared>,
    control: Mutex<Control>,
    retired: DropCounters,
}

impl Engine {
    /// An engine that carries nothing yet.
    pub fn new(
        tun: Vec<Arc<dyn TunDevice>>,
        sockets: Vec<Arc<dyn OuterSocket>>,
        config: Config,
    ) -> Result<Self, DeviceError> {
        let slots = config.slots.clamp(64, MAX_SLOTS).next_power_of_two();
        let shared = Arc::new(Shared::new(tun, sockets, Config { slots, ..config })?);
        let control = Control {
            spis: SpiBook::new(slots),
            services: HashMap::new(),
            changes: HashMap::new(),
            threads: Vec::new(),
            is_stopped: false,
        };
        Ok(Self {
            shared,
            control: Mutex::new(control),
            retired: DropCounters::default(),
        })
    }

    /// Start the threads; nothing where they run already.
    pub fn start(&self) -> Result<(), EngineError> {
        let mut control = locked(&self.control);
        if control.is_stopped {
            return Err(EngineError::IsStopped);
        }
        if control.threads.is_empty() {
            control.threads = workers::start(&self.shared)?;
        }
        Ok(())
    }

    /// Stop the threads, drop all pairs and so wipe their keys. For good.
    pub fn stop(&self) {
        let mut control = locked(&self.control);
        control.is_stopped = true;
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        for bell in &self.shared.threads {
            bell.wake.signal();
        }
        for thread in control.threads.drain(..) {
            let _ = thread.join(); // a panic has been counted
        }
        let handles: Vec<u32> = self.shared.sad.pairs().map(|pair| pair.handle).collect();
        for handle in handles {
            self.shared.sad.remove(handle);
        }
        locked(&self.shared.kept_open).clear();
        control.services.clear();
        control.changes.clear();
        self.shared.tables.policies.store(Arc::default());
    }

    /// Up to `count` fresh inbound SPIs.
    pub fn reserve_spis(&self, count: usize) -> Vec<u32> {
        locked(&self.control).spis.reserve(count)
    }

    /// Give back SPIs that were reserved and never installed.
    pub fn release_spis(&self, spis: &[u32]) {
        let mut control = locked(&self.control);
        spis.iter().for_each(|spi| control.spis.release(*spi));
    }

    /// Carry out a batch in order, up to the first command that cannot be. Answers with final counters of removed pairs.
    pub fn apply(&self, batch: Vec<Command>) -> Result<Vec<Counters>, EngineError> {
        let mut control = locked(&self.control);
        if control.is_stopped {
            return Err(EngineError::IsStopped);
        }
        let mut removed = Vec::new();
        let mut outcome = Ok(());
        for command in batch {
            outcome = self.carry_out(&mut control, command, &mut removed);
            if outcome.is_err() {
                break;
            }
        }
        self.publish_policies(&mut control);
        self.shared.tables.advance();
        if !removed.is_empty() {
            // Whoever found one of them before is done with it after this, so that its counters are final.
            self.shared
                .threads
                .iter()
                .for_each(|bell| bell.wait_for_turn());
        }
        // Outbound threads let go of pairs and send what they hold for new ones.
        self.shared.wake_outbound();
        let finals = removed
            .iter()
            .map(|pair| self.retire(&mut control, pair))
            .collect();
        outcome.map(|()| finals)
    }

    fn carry_out(
        &self,
        control: &mut Control,
        command: Command,
        removed: &mut Vec<Arc<Pair>>,
    ) -> Result<(), EngineError> {
        match command {
            Command::AddInbound(inbound) => self.add_inbound(control, *inbound),
            Command::AddOutbound(outbound) => self.add_outbound(*outbound),
            Command::Activate(handle) => self.activate(control, handle),
            Command::Update(change) => self.update(*change),
            Command::Remove(handle) => {
                removed.push(self.remove(control, handle)?);
                Ok(())
            }
            Command::PutPolicy(policy) => {
                control.changes.insert(policy.id, Some(*policy));
                Ok(())
            }
            Command::RemovePolicy(id) => {
                control.changes.insert(id, None);
                Ok(())
            }
        }
    }

    fn add_inbound(&self, control: &mut Control, command: AddInbound) -> Result<(), EngineError> {
        let spi = command.spi;
        let config = SaConfig {
            spi,
            suite: command.keys.suite,
            has_esn: command.keys.has_esn,
            key: &command.keys.key,
            integrity_key: &command.keys.integrity_key,
            selectors: command.selectors,
            limits: bounded(command.limits, command.keys.has_esn),
            last_sequence: 0,
            seals: self.shared.seals,
        };
        let inbound = InboundSa::new(config, command.replay_window)
            .map_err(|error| EngineError::Sa(spi, error))?
            .with_icmp_check(command.icmp_check);
        if !control.spis.install(spi) {
            return Err(EngineError::NotReserved(spi));
        }
        let assembly = match command.framing {
            Framing::Whole => None,
            Framing::Aggfrag => Some(Assembly::new(&self.shared.budget)),
        };
        self.shared.sad.insert(Arc::new(Pair::new(
            spi,
            inbound,
            assembly,
            command.keys.has_esn,
            command.carriage.path,
        )));
        Ok(())
    }

    fn add_outbound(&self, command: AddOutbound) -> Result<(), EngineError> {
        let handle = command.handle;
        let pair = self.find(handle)?;
        self.check_carriage(handle, &command.carriage)?;
        let config = SaConfig {
            spi: command.spi,
            suite: command.keys.suite,
            has_esn: command.keys.has_esn,
            key: &command.keys.key,
            integrity_key: &command.keys.integrity_key,
            selectors: command.selectors,
            limits: bounded(command.limits, command.keys.has_esn),
            last_sequence: 0,
            seals: self.shared.seals,
        };
        let sa = OutboundSa::new(config, command.copies_dscp)
            .map_err(|error| EngineError::Sa(handle, error))?;
        let settings = Settings {
            carriage: command.carriage,
            plan: command.plan,
            keepalive: command.keepalive,
        };
        let outbound = Outbound {
            sa,
            policy: command.policy,
            settings: ArcSwap::from_pointee(settings),
            last_sent: monotonic().into(),
            turnstile: Turnstile::default(),
            packed: Packed::default(),
        };
        pair.outbound
            .set(outbound)
            .map_err(|_| EngineError::IsComplete(handle))?;
        self.keep_open(&pair, command.keepalive);
        Ok(())
    }

    fn check_carriage(&self, handle: u32, carriage: &Carriage) -> Result<(), EngineError> {
        let how = if carriage.is_udp {
            "in UDP"
        } else {
            "as protocol 50"
        };
        let no_socket = EngineError::NoSocket {
            handle,
            local: carriage.path.local,
            how,
        };
        self.shared
            .socket_for(carriage)
            .map(|_| ())
            .ok_or(no_socket)
    }

    fn keep_open(&self, pair: &Arc<Pair>, keepalive: u64) {
        let mut kept_open = locked(&self.shared.kept_open);
        if keepalive == 0 {
            kept_open.remove(&pair.handle);
        } else {
            kept_open.insert(pair.handle, Arc::clone(pair));
        }
    }

    fn activate(&self, control: &mut Control, handle: u32) -> Result<(), EngineError> {
        let pair = self.find(handle)?;
        let outbound = pair
            .outbound
            .get()
            .ok_or(EngineError::IsIncomplete(handle))?;
        control
            .services
            .entry(outbound.policy)
            .or_default()
            .pairs
            .prefer(&pair);
        Ok(())
    }

    fn update(&self, change: Update) -> Result<(), EngineError> {
        let pair = self.find(change.handle)?;
        if let Some(path) = change.path {
            pair.expected.store(Arc::new(path));
            pair.settle();
        }
        if let Some(limits) = change.limits {
            pair.inbound.set_limits(bounded(limits, pair.has_esn));
        }
        let Some(outbound) = pair.outbound.get() else {
            return Ok(());
        };
        if let Some(limits) = change.limits {
            outbound.sa.set_limits(bounded(limits, pair.has_esn));
        }
        let old = outbound.settings.load_full();
        let carriage = Carriage {
            path: change.path.unwrap_or(old.carriage.path),
            is_udp: change.is_udp.unwrap_or(old.carriage.is_udp),
        };
        self.check_carriage(change.handle, &carriage)?;
        let keepalive = change.keepalive.unwrap_or(old.keepalive);
        let plan = change.plan.unwrap_or_else(|| old.plan.clone());
        if plan.framing != old.plan.framing {
            return Err(EngineError::OtherFraming(change.handle));
        }
        outbound.settings.store(Arc::new(Settings {
            carriage,
            plan,
            keepalive,
        }));
        self.keep_open(&pair, keepalive);
        Ok(())
    }

    fn remove(&self, control: &mut Control, handle: u32) -> Result<Arc<Pair>, EngineError> {
        let pair = self
            .shared
            .sad
            .remove(handle)
            .ok_or(EngineError::UnknownSpi(handle))?;
        locked(&self.shared.kept_open).remove(&handle);
        if let Some(outbound) = pair.outbound.get()
            && let Some(service) = control.services.get(&outbound.policy)
        {
            service.pairs.remove(handle);
            self.forget_service(control, outbound.policy);
        }
        Ok(pair)
    }

    fn retire(&self, control: &mut Control, pair: &Pair) -> Counters {
        if let Some(assembly) = &pair.assembly {
            // What still waits for others waits no more, and is counted.
            locked(&assembly.reassembler).expire(u64::MAX, pair.inbound.drops());
        }
        let counters = count(pair);
        for (reason, packets) in &counters.drops {
            self.retired.count_many(*reason, *packets);
        }
        control.spis.retire(pair.handle);
        counters
    }

    /// Let the packet threads know of policies that were put or taken away; the work is that of the changes.
    fn publish_policies(&self, control: &mut Control) {
        if control.changes.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut control.changes);
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for (id, policy) in changes {
            match policy {
                Some(policy) => {
                    let service = Arc::clone(control.services.entry(id).or_default());
                    put.push(Arc::new(Served { policy, service }));
                }
                None => gone.push(id),
            }
        }
        let policies = &self.shared.tables.policies;
        let next = policies.load().changed(put, gone.iter().copied());
        policies.store(Arc::new(next));
        for id in gone {
            self.forget_service(control, id);
        }
    }

    /// Keep what serves a policy only as long as there is the policy, or a pair.
    fn forget_service(&self, control: &mut Control, policy: u32) {
        let is_idle = control
            .services
            .get(&policy)
            .is_some_and(|service| service.pairs.load().is_empty());
        let is_known = control.changes.get(&policy).map_or_else(
            || self.shared.tables.policies.load().find(policy).is_some(),
            Option::is_some,
        );
        if is_idle && !is_known {
            control.services.remove(&policy);
        }
    }

    fn find(&self, handle: u32) -> Result<Arc<Pair>, EngineError> {
        self.shared
            .sad
            .find(handle)
            .ok_or(EngineError::UnknownSpi(handle))
    }

    /// Counters of these pairs, or of all. Pairs that are gone are left out.
    pub fn read_counters(&self, handles: Option<&[u32]>) -> Vec<Counters> {
        match handles {
            Some(handles) => handles
                .iter()
                .filter_map(|handle| self.shared.sad.find(*handle))
                .map(|p| count(&p))
                .collect(),
            None => self.shared.sad.pairs().map(|pair| count(&pair)).collect(),
        }
    }

    /// All drops that have happened since the start, by name.
    pub fn read_drops(&self) -> BTreeMap<&'static str, u64> {
        let mut sums = BTreeMap::new();
        let mut add = |name: &'static str, packets: u64| {
            if packets > 0 {
                *sums.entry(name).or_insert(0) += packets;
            }
        };
        for counters in [&self.shared.drops, &self.retired] {
            counters
                .happened()
                .for_each(|(reason, packets)| add(reason.name(), packets));
        }
        for pair in self.shared.sad.pairs() {
            count(&pair)
                .drops
                .iter()
                .for_each(|(reason, packets)| add(reason.name(), *packets));
        }
        add("noise-full", self.shared.events.overflown());
        add("engine-fault", self.shared.faults.load(Ordering::Relaxed));
        sums
    }

    /// What became of each offload: by name, `on` or why it is off. Settled when the threads start.
    pub fn read_offloads(&self) -> BTreeMap<&'static str, String> {
        self.shared.offloads.tell(&self.shared.sockets)
    }

    /// Readable while `drain` has something.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.shared.events.readable.as_fd()
    }

    /// Up to `limit` events, states before noise.
    pub fn drain(&self, limit: usize) -> Vec<Event> {
        let events = &self.shared.events;
        // Cleared first: what comes from now on signals again.
        events.readable.clear();
        let mut drained = Vec::new();
        while drained.len() < limit {
            let Some(slot) = events.dirty.take() else {
                break;
            };
            // A pair that has gone since has nothing more to tell.
            let Some(pair) = self.shared.sad.at(slot) else {
                continue;
            };
            let path = pair.new_path.load_full().map(|path| *path);
            drained.push(Event::State {
                handle: pair.handle,
                flags: pair.flags.fetch_and(!flag::SUSPECT, Ordering::SeqCst),
                path,
            });
        }
        while drained.len() < limit {
            let Some(event) = events.take_noise() else {
                break;
            };
            drained.push(event);
        }
        if drained.len() == limit {
            events.readable.signal();
        }
        drained
    }

    /// Readable while `receive_ike` has something.
    pub fn ike_fd(&self) -> BorrowedFd<'_> {
        self.shared.ike.readable.as_fd()
    }

    /// Up to `limit` IKE datagrams, strangers last.
    pub fn receive_ike(&self, limit: usize) -> Vec<IkeDatagram> {
        self.shared.ike.receive(limit)
    }

    /// Send IKE datagrams in order; answers how many the network did not take.
    pub fn send_ike(&self, datagrams: &[IkeOutgoing<'_>]) -> usize {
        ike_send::send(&self.shared, datagrams)
    }

    /// Our IKE SPIs have changed.
    pub fn know_ike_spis(&self, added: &[u64], removed: &[u64]) {
        self.shared.ike.know(added, removed);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Without ESN, sequence numbers end at 2^32: a replacement must be asked for before, whoever set the limits.
fn bounded(limits: Limits, has_esn: bool) -> Limits {
    if has_esn {
        return limits;
    }
    let soft_packets = if limits.soft_packets == 0 {
        SOFT_SEQUENCE
    } else {
        limits.soft_packets.min(SOFT_SEQUENCE)
    };
    Limits {
        soft_packets,
        ..limits
    }
}

fn count(pair: &Pair) -> Counters {
    let outbound = pair.outbound.get();
    let halves = [
        Some(pair.inbound.drops()),
        outbound.map(|outbound| outbound.sa.drops()),
        Some(&pair.drops),
    ];
    let sum = |reason: &DropReason| {
        halves
            .iter()
            .flatten()
            .map(|drops| drops.read(*reason))
            .sum::<u64>()
    };
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let assembly = pair.assembly.as_deref();
    let packed = |outbound: &Outbound| {
        let Packed {
            packed,
            sliced,
            slices,
            ..
        } = &outbound.packed;
        (read(packed), read(sliced), read(slices))
    };
    Counters {
        handle: pair.handle,
        inbound: assembly.map_or_else(
            || pair.inbound.carried(),
            |assembly| (read(&assembly.packets), read(&assembly.octets)),
        ),
        outbound: outbound.map_or((0, 0), Outbound::carried),
        outbound_packed: outbound.map_or((0, 0, 0), packed),
        inbound_assembled: assembly.map_or(0, |assembly| read(&assembly.assembled)),
        inbound_reports: assembly.map_or(0, |assembly| read(&assembly.reports)),
        inbound_sequence: pair.inbound.highest_sequence(),
        outbound_sequence: outbound.map_or(0, |outbound| outbound.sa.last_sequence()),
        drops: DropReason::ALL
            .iter()
            .map(|reason| (*reason, sum(reason)))
            .filter(|(_, packets)| *packets > 0)
            .collect(),
        deeds: pair.deeds.done().collect(),
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
