//! Carries out commands: on the SAD, on what serves each policy, and on the policies that packet threads know of.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use openmoat_esp::meter::{Limits, MAX_SHORT_SEQUENCE};
use openmoat_esp::reassembly::Budget;
use openmoat_esp::sa::{InboundSa, OutboundSa, SaConfig, SaError};
use openmoat_esp::selectors::SelectorPair;
use openmoat_esp::spd::Policy;

use crate::command::{AddInbound, AddOutbound, Carriage, Command, Keys, Update};
use crate::config::Config;
use crate::error::EngineError;
use crate::outbound::keepalive::KeepAlives;
use crate::outer_sockets::OuterSockets;
use crate::sizes::plan::Framing;
use crate::tables::pair::{Assembly, Outbound, Pair, Settings};
use crate::tables::policies::{Policies, Served, Service};
use crate::tables::sa_counters::SaCounters;
use crate::tables::sad::Sad;
use crate::tables::send_lock::SendLock;
use crate::tables::spis::SpiBook;

/// Packets after which an SA without ESN asks for its replacement at the latest.
const SOFT_SEQUENCE: u64 = MAX_SHORT_SEQUENCE / 8 * 7;

/// What the thread that gives commands works with.
pub struct Installer {
    /// Inbound SPIs, reserved and installed.
    pub spis: SpiBook,
    #[cfg(feature = "unsealed")]
    seals: bool,
    sad: Arc<Sad>,
    policies: Arc<Policies>,
    sockets: Arc<OuterSockets>,
    keepalives: Arc<KeepAlives>,
    /// Memory of all pieces of AGGFRAG that wait for others.
    budget: Arc<Budget>,
    /// What serves the policies there are, and those that live pairs still name.
    services: HashMap<u32, Arc<Service>>,
    /// Policies put, or taken away where None, that the packet threads do not know of yet.
    changes: HashMap<u32, Option<Policy>>,
}

impl Installer {
    /// Nothing is installed in these tables.
    pub fn new(
        config: &Config,
        sad: Arc<Sad>,
        policies: Arc<Policies>,
        sockets: Arc<OuterSockets>,
        keepalives: Arc<KeepAlives>,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            spis: SpiBook::new(config.slots),
            #[cfg(feature = "unsealed")]
            seals: config.seals,
            sad,
            policies,
            sockets,
            keepalives,
            budget,
            services: HashMap::new(),
            changes: HashMap::new(),
        }
    }

    /// Forget everything, take out all pairs, and let the packet threads know of no policy.
    pub fn clear(&mut self) {
        let handles: Vec<u32> = self.sad.pairs().map(|pair| pair.handle).collect();
        for handle in handles {
            self.sad.remove(handle);
        }
        self.keepalives.clear();
        self.services.clear();
        self.changes.clear();
        self.policies.spd.store(Arc::default());
    }

    /// Carry out one command; a pair that it removes is put to `removed`.
    pub fn carry_out(
        &mut self,
        command: Command,
        removed: &mut Vec<Arc<Pair>>,
    ) -> Result<(), EngineError> {
        match command {
            Command::AddInbound(inbound) => self.add_inbound(*inbound)?,
            Command::AddOutbound(outbound) => self.add_outbound(*outbound)?,
            Command::Activate(handle) => self.activate(handle)?,
            Command::Update(change) => self.update(*change)?,
            Command::Remove(handle) => removed.push(self.remove(handle)?),
            Command::PutPolicy(policy) => {
                self.changes.insert(policy.id, Some(*policy));
            }
            Command::RemovePolicy(id) => {
                self.changes.insert(id, None);
            }
        }
        Ok(())
    }

    fn add_inbound(&mut self, command: AddInbound) -> Result<(), EngineError> {
        let spi = command.spi;
        let half = half(spi, &command.keys, command.selectors, command.limits);
        let inbound = self
            .inbound_sa(half, command.replay_window)
            .map_err(|error| EngineError::Sa(spi, error))?
            .with_icmp_check(command.icmp_check);
        if !self.spis.install(spi) {
            return Err(EngineError::NotReserved(spi));
        }
        let assembly = match command.framing {
            Framing::Whole => None,
            Framing::Aggfrag => Some(Assembly::new(&self.budget)),
        };
        self.sad.insert(Arc::new(Pair::new(
            spi,
            inbound,
            assembly,
            command.keys.has_esn,
            command.carriage.path,
        )));
        Ok(())
    }

    fn activate(&mut self, handle: u32) -> Result<(), EngineError> {
        let pair = self.find(handle)?;
        let outbound = pair
            .outbound
            .get()
            .ok_or(EngineError::IsIncomplete(handle))?;
        self.services
            .entry(outbound.policy)
            .or_default()
            .pairs
            .prefer(&pair);
        Ok(())
    }

    fn remove(&mut self, handle: u32) -> Result<Arc<Pair>, EngineError> {
        let pair = self
            .sad
            .remove(handle)
            .ok_or(EngineError::UnknownSpi(handle))?;
        self.keepalives.remove(handle);
        if let Some(outbound) = pair.outbound.get()
            && let Some(service) = self.services.get(&outbound.policy)
        {
            service.pairs.remove(handle);
            self.forget_service(outbound.policy);
        }
        Ok(pair)
    }

    /// Let the packet threads know of policies that were put or taken away; the work is that of the changes.
    pub fn publish_policies(&mut self) {
        if self.changes.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut self.changes);
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for (id, policy) in changes {
            match policy {
                Some(policy) => {
                    let service = Arc::clone(self.services.entry(id).or_default());
                    put.push(Arc::new(Served { policy, service }));
                }
                None => gone.push(id),
            }
        }
        let spd = &self.policies.spd;
        let next = spd.load().changed(put, gone.iter().copied());
        spd.store(Arc::new(next));
        for id in gone {
            self.forget_service(id);
        }
    }

    /// Keep what serves a policy only as long as there is the policy, or a pair.
    fn forget_service(&mut self, policy: u32) {
        let is_idle = self
            .services
            .get(&policy)
            .is_some_and(|service| service.pairs.load().is_empty());
        let is_known = self.changes.get(&policy).map_or_else(
            || self.policies.spd.load().find(policy).is_some(),
            Option::is_some,
        );
        if is_idle && !is_known {
            self.services.remove(&policy);
        }
    }

    fn add_outbound(&self, command: AddOutbound) -> Result<(), EngineError> {
        let handle = command.handle;
        let pair = self.find(handle)?;
        self.check_carriage(handle, &command.carriage)?;
        let half = half(
            command.spi,
            &command.keys,
            command.selectors,
            command.limits,
        );
        let sa = self
            .outbound_sa(half, command.copies_dscp)
            .map_err(|error| EngineError::Sa(handle, error))?;
        let is_probed = command.plan.echoes && command.plan.framing == Framing::Aggfrag;
        let settings = Settings {
            carriage: command.carriage,
            plan: command.plan,
            keepalive: command.keepalive,
            hard_at: command.hard_at,
        };
        let outbound = Outbound {
            sa,
            policy: command.policy,
            settings: ArcSwap::from_pointee(settings),
            last_sent: 0.into(),
            send_lock: SendLock::default(),
            counters: SaCounters::default(),
            probe: is_probed.then(Box::default),
        };
        pair.outbound
            .set(outbound)
            .map_err(|_| EngineError::IsComplete(handle))?;
        self.keepalives.set(&pair, command.keepalive);
        Ok(())
    }

    fn update(&self, change: Update) -> Result<(), EngineError> {
        let pair = self.find(change.handle)?;
        if let Some(path) = change.path {
            pair.expect_path(path);
        }
        let limits = change.limits.map(|limits| bounded(limits, pair.has_esn));
        if let Some(limits) = limits {
            pair.inbound.set_limits(limits);
        }
        let Some(outbound) = pair.outbound.get() else {
            return Ok(());
        };
        if let Some(limits) = limits {
            outbound.sa.set_limits(limits);
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
        let is_resized = plan.outer_size != old.plan.outer_size;
        outbound.settings.store(Arc::new(Settings {
            carriage,
            plan,
            keepalive,
            hard_at: change.hard_at.unwrap_or(old.hard_at),
        }));
        if let Some(probe) = outbound.probe.as_ref().filter(|_| is_resized) {
            probe.restart();
        }
        self.keepalives.set(&pair, keepalive);
        Ok(())
    }

    fn inbound_sa(&self, half: SaConfig<'_>, window: u32) -> Result<InboundSa, SaError> {
        #[cfg(feature = "unsealed")]
        if !self.seals {
            return InboundSa::unsealed(half, window);
        }
        InboundSa::new(half, window)
    }

    fn outbound_sa(&self, half: SaConfig<'_>, copies_dscp: bool) -> Result<OutboundSa, SaError> {
        #[cfg(feature = "unsealed")]
        if !self.seals {
            return Ok(OutboundSa::unsealed(half, copies_dscp));
        }
        OutboundSa::new(half, copies_dscp)
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
        self.sockets
            .socket_for(carriage)
            .map(|_| ())
            .ok_or(no_socket)
    }

    fn find(&self, handle: u32) -> Result<Arc<Pair>, EngineError> {
        self.sad.find(handle).ok_or(EngineError::UnknownSpi(handle))
    }
}

/// What a new half of an SA begins with.
fn half(spi: u32, keys: &Keys, selectors: SelectorPair, limits: Limits) -> SaConfig<'_> {
    SaConfig {
        spi,
        suite: keys.suite,
        has_esn: keys.has_esn,
        key: &keys.key,
        integrity_key: &keys.integrity_key,
        selectors,
        limits: bounded(limits, keys.has_esn),
        last_sequence: 0,
    }
}

/// Without ESN, sequence numbers end at 2^32: a replacement must be asked for before, whatever limits were set.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sa_with_short_sequence_numbers_asks_before_they_end() {
        let asked = Limits {
            soft_packets: 5,
            ..Limits::default()
        };
        assert_eq!(
            bounded(Limits::default(), false).soft_packets,
            SOFT_SEQUENCE
        );
        assert_eq!(bounded(asked, false), asked);
        assert_eq!(bounded(Limits::default(), true), Limits::default());
    }
}
