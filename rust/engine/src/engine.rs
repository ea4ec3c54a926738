//! The engine as Python sees it: commands down, counters and events up. Called by one thread at a time.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use openmoat_esp::drops::DropCounters;
use openmoat_io::{DeviceError, OuterSocket, TunDevice};

use crate::command::Command;
use crate::counters::Counters;
use crate::events::{Event, flag};
use crate::inbound::ike_queues::IkeDatagram;
use crate::outbound::ike::{self as ike_send, IkeOutgoing};
use crate::shared::{Config, Shared, locked};
use crate::tables::Pair;
use crate::tables::spis::MAX_SLOTS;
use crate::tables::writer::{EngineError, Register};
use crate::workers;

struct Control {
    register: Register,
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
            register: Register::new(slots),
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
        control.register.clear(&self.shared);
    }

    /// Up to `count` fresh inbound SPIs.
    pub fn reserve_spis(&self, count: usize) -> Vec<u32> {
        locked(&self.control).register.spis.reserve(count)
    }

    /// Give back SPIs that were reserved and never installed.
    pub fn release_spis(&self, spis: &[u32]) {
        let mut control = locked(&self.control);
        spis.iter()
            .for_each(|spi| control.register.spis.release(*spi));
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
            outcome = control
                .register
                .carry_out(&self.shared, command, &mut removed);
            if outcome.is_err() {
                break;
            }
        }
        control.register.publish_policies(&self.shared);
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

    fn retire(&self, control: &mut Control, pair: &Pair) -> Counters {
        if let Some(assembly) = &pair.assembly {
            // What still waits for others waits no more, and is counted.
            locked(&assembly.reassembler).expire(u64::MAX, pair.inbound.drops());
        }
        let counters = Counters::of(pair);
        for (reason, packets) in &counters.drops {
            self.retired.count_many(*reason, *packets);
        }
        control.register.spis.retire(pair.handle);
        counters
    }

    /// Counters of these pairs, or of all. Pairs that are gone are left out.
    pub fn read_counters(&self, handles: Option<&[u32]>) -> Vec<Counters> {
        match handles {
            Some(handles) => handles
                .iter()
                .filter_map(|handle| self.shared.sad.find(*handle))
                .map(|p| Counters::of(&p))
                .collect(),
            None => self
                .shared
                .sad
                .pairs()
                .map(|pair| Counters::of(&pair))
                .collect(),
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
            Counters::of(&pair)
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
                flags: pair.flags.fetch_and(!flag::TOLD_ONCE, Ordering::SeqCst),
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

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
