//! The engine as Python sees it: commands down, counters and events up. Called by one thread at a time.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use openmoat_esp::drops::DropCounters;
use openmoat_io::{DeviceError, OuterSocket, TunDevice};

use crate::command::Command;
use crate::config::Config;
use crate::counters::Counters;
use crate::doorbell::Doorbell;
use crate::error::EngineError;
use crate::events::{Event, flag};
use crate::inbound::ike_queues::IkeDatagram;
use crate::installer::Installer;
use crate::lock::locked;
use crate::outbound::ike::{self as ike_send, IkeOutgoing};
use crate::parts::Parts;
use crate::stepper::Stepper;
use crate::tables::pair::Pair;
use crate::tables::spis::MAX_SLOTS;
use crate::workers;

struct Control {
    installer: Installer,
    threads: Vec<JoinHandle<()>>,
    is_stopped: bool,
}

/// Threads that carry packets between one TUN device and the outside.
pub struct Engine {
    parts: Parts,
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
        let (parts, installer) = Parts::new(tun, sockets, Config { slots, ..config })?;
        let control = Control {
            installer,
            threads: Vec::new(),
            is_stopped: false,
        };
        Ok(Self {
            parts,
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
            control.threads = workers::start(&self.parts)?;
        }
        Ok(())
    }

    /// Stop the threads, drop all pairs and so wipe their keys. For good.
    pub fn stop(&self) {
        let mut control = locked(&self.control);
        control.is_stopped = true;
        self.parts.bells().for_each(Doorbell::stop);
        for thread in control.threads.drain(..) {
            let _ = thread.join(); // a panic has been counted
        }
        control.installer.clear();
    }

    /// In place of `start`: the work of the threads, done by the caller, batch by batch and by a clock of its own. For tests
    /// and simulations.
    pub fn stepper(&self) -> Stepper {
        Stepper::new(&self.parts)
    }

    /// Up to `count` fresh inbound SPIs.
    pub fn reserve_spis(&self, count: usize) -> Vec<u32> {
        locked(&self.control).installer.spis.reserve(count)
    }

    /// Give back SPIs that were reserved and never installed.
    pub fn release_spis(&self, spis: &[u32]) {
        let mut control = locked(&self.control);
        spis.iter()
            .for_each(|spi| control.installer.spis.release(*spi));
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
            outcome = control.installer.carry_out(command, &mut removed);
            if outcome.is_err() {
                break;
            }
        }
        control.installer.publish_policies();
        self.parts.policies.advance();
        if !removed.is_empty() {
            // A thread that found one of them before is done with it after this, so that its counters are final.
            self.parts.bells().for_each(Doorbell::wait_for_turn);
        }
        // Outbound threads let go of pairs and send what they hold for new ones.
        self.parts
            .workers
            .iter()
            .for_each(|worker| worker.outbound.ring());
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
        control.installer.spis.retire(pair.handle);
        counters
    }

    /// Counters of these pairs, or of all. Pairs that are gone are left out.
    pub fn read_counters(&self, handles: Option<&[u32]>) -> Vec<Counters> {
        match handles {
            Some(handles) => handles
                .iter()
                .filter_map(|handle| self.parts.sad.find(*handle))
                .map(|p| Counters::of(&p))
                .collect(),
            None => self
                .parts
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
        for counters in [&*self.parts.drops, &self.retired] {
            counters
                .happened()
                .for_each(|(reason, packets)| add(reason.name(), packets));
        }
        for pair in self.parts.sad.pairs() {
            Counters::of(&pair)
                .drops
                .iter()
                .for_each(|(reason, packets)| add(reason.name(), *packets));
        }
        add("noise-full", self.parts.events.overflown());
        add(
            "engine-fault",
            self.parts.bells().map(Doorbell::faults).sum(),
        );
        sums
    }

    /// What became of each offload: by name, `on` or why it is off. Settled when the threads start.
    pub fn read_offloads(&self) -> BTreeMap<&'static str, String> {
        self.parts.offloads.tell(self.parts.sockets.all())
    }

    /// Readable while `drain` has something.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.parts.events.readable.as_fd()
    }

    /// Up to `limit` events, states before noise.
    pub fn drain(&self, limit: usize) -> Vec<Event> {
        let events = &self.parts.events;
        // Cleared first: what comes from now on signals again.
        events.readable.clear();
        let mut drained = Vec::new();
        while drained.len() < limit {
            let Some(slot) = events.dirty.take() else {
                break;
            };
            // A pair that has gone since has nothing more to tell.
            let Some(pair) = self.parts.sad.at(slot) else {
                continue;
            };
            let path = pair.path.new_path();
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
        self.parts.ike.readable.as_fd()
    }

    /// Up to `limit` IKE datagrams, strangers last.
    pub fn receive_ike(&self, limit: usize) -> Vec<IkeDatagram> {
        self.parts.ike.receive(limit)
    }

    /// Send IKE datagrams in order; answers how many the network did not take.
    pub fn send_ike(&self, datagrams: &[IkeOutgoing<'_>]) -> usize {
        ike_send::send(&self.parts.sockets, datagrams)
    }

    /// Our IKE SPIs have changed.
    pub fn know_ike_spis(&self, added: &[u64], removed: &[u64]) {
        self.parts.ike.know(added, removed);
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
