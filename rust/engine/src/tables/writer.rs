//! What commands do: to the SAD, to what serves each policy, and to the policies that packet threads know of.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use openmoat_esp::meter::{Limits, MAX_SHORT_SEQUENCE};
use openmoat_esp::sa::{InboundSa, OutboundSa, SaConfig, SaError};
use openmoat_esp::selectors::SelectorPair;
use openmoat_esp::spd::Policy;
use openmoat_io::{DeviceError, boottime};

use crate::command::{AddInbound, AddOutbound, Carriage, Command, Keys, Update};
use crate::shared::{Shared, locked};
use crate::sizes::plan::Framing;
use crate::tables::send_lock::Turnstile;
use crate::tables::spis::SpiBook;
use crate::tables::{Assembly, Outbound, Packed, Pair, Served, Service, Settings};

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

/// What only the thread that gives commands knows of.
pub struct Register {
    /// Inbound SPIs, reserved and installed.
    pub spis: SpiBook,
    /// What serves the policies there are, and those that live pairs still name.
    services: HashMap<u32, Arc<Service>>,
    /// Policies put, or taken away where None, that the packet threads do not know of yet.
    changes: HashMap<u32, Option<Policy>>,
}

impl Register {
    /// An empty one for so many pairs.
    pub fn new(slots: usize) -> Self {
        Self {
            spis: SpiBook::new(slots),
            services: HashMap::new(),
            changes: HashMap::new(),
        }
    }

    /// Forget everything, and let the packet threads know of no policy.
    pub fn clear(&mut self, shared: &Shared) {
        self.services.clear();
        self.changes.clear();
        shared.tables.policies.store(Arc::default());
    }

    /// Carry out one command; a pair that it removes is put to `removed`.
    pub fn carry_out(
        &mut self,
        shared: &Shared,
        command: Command,
        removed: &mut Vec<Arc<Pair>>,
    ) -> Result<(), EngineError> {
        match command {
            Command::AddInbound(inbound) => self.add_inbound(shared, *inbound)?,
            Command::AddOutbound(outbound) => add_outbound(shared, *outbound)?,
            Command::Activate(handle) => self.activate(shared, handle)?,
            Command::Update(change) => update(shared, *change)?,
            Command::Remove(handle) => removed.push(self.remove(shared, handle)?),
            Command::PutPolicy(policy) => {
                self.changes.insert(policy.id, Some(*policy));
            }
            Command::RemovePolicy(id) => {
                self.changes.insert(id, None);
            }
        }
        Ok(())
    }

    fn add_inbound(&mut self, shared: &Shared, command: AddInbound) -> Result<(), EngineError> {
        let spi = command.spi;
        let config = half(
            shared,
            spi,
            &command.keys,
            command.selectors,
            command.limits,
        );
        let inbound = InboundSa::new(config, command.replay_window)
            .map_err(|error| EngineError::Sa(spi, error))?
            .with_icmp_check(command.icmp_check);
        if !self.spis.install(spi) {
            return Err(EngineError::NotReserved(spi));
        }
        let assembly = match command.framing {
            Framing::Whole => None,
            Framing::Aggfrag => Some(Assembly::new(&shared.budget)),
        };
        shared.sad.insert(Arc::new(Pair::new(
            spi,
            inbound,
            assembly,
            command.keys.has_esn,
            command.carriage.path,
        )));
        Ok(())
    }

    fn activate(&mut self, shared: &Shared, handle: u32) -> Result<(), EngineError> {
        let pair = find(shared, handle)?;
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

    fn remove(&mut self, shared: &Shared, handle: u32) -> Result<Arc<Pair>, EngineError> {
        let pair = shared
            .sad
            .remove(handle)
            .ok_or(EngineError::UnknownSpi(handle))?;
        locked(&shared.kept_open).remove(&handle);
        if let Some(outbound) = pair.outbound.get()
            && let Some(service) = self.services.get(&outbound.policy)
        {
            service.pairs.remove(handle);
            self.forget_service(shared, outbound.policy);
        }
        Ok(pair)
    }

    /// Let the packet threads know of policies that were put or taken away; the work is that of the changes.
    pub fn publish_policies(&mut self, shared: &Shared) {
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
        let policies = &shared.tables.policies;
        let next = policies.load().changed(put, gone.iter().copied());
        policies.store(Arc::new(next));
        for id in gone {
            self.forget_service(shared, id);
        }
    }

    /// Keep what serves a policy only as long as there is the policy, or a pair.
    fn forget_service(&mut self, shared: &Shared, policy: u32) {
        let is_idle = self
            .services
            .get(&policy)
            .is_some_and(|service| service.pairs.load().is_empty());
        let is_known = self.changes.get(&policy).map_or_else(
            || shared.tables.policies.load().find(policy).is_some(),
            Option::is_some,
        );
        if is_idle && !is_known {
            self.services.remove(&policy);
        }
    }
}

fn add_outbound(shared: &Shared, command: AddOutbound) -> Result<(), EngineError> {
    let handle = command.handle;
    let pair = find(shared, handle)?;
    check_carriage(shared, handle, &command.carriage)?;
    let config = half(
        shared,
        command.spi,
        &command.keys,
        command.selectors,
        command.limits,
    );
    let sa = OutboundSa::new(config, command.copies_dscp)
        .map_err(|error| EngineError::Sa(handle, error))?;
    let echoes = command.plan.echoes && command.plan.framing == Framing::Aggfrag;
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
        last_sent: boottime().into(),
        turnstile: Turnstile::default(),
        packed: Packed::default(),
        echo: echoes.then(Box::default),
    };
    pair.outbound
        .set(outbound)
        .map_err(|_| EngineError::IsComplete(handle))?;
    keep_open(shared, &pair, command.keepalive);
    Ok(())
}

fn update(shared: &Shared, change: Update) -> Result<(), EngineError> {
    let pair = find(shared, change.handle)?;
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
    check_carriage(shared, change.handle, &carriage)?;
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
    if let Some(echo) = outbound.echo.as_ref().filter(|_| is_resized) {
        echo.begin_anew();
    }
    keep_open(shared, &pair, keepalive);
    Ok(())
}

/// What a new half of an SA begins with.
fn half<'a>(
    shared: &Shared,
    spi: u32,
    keys: &'a Keys,
    selectors: SelectorPair,
    limits: Limits,
) -> SaConfig<'a> {
    SaConfig {
        spi,
        suite: keys.suite,
        has_esn: keys.has_esn,
        key: &keys.key,
        integrity_key: &keys.integrity_key,
        selectors,
        limits: bounded(limits, keys.has_esn),
        last_sequence: 0,
        seals: shared.seals,
    }
}

fn check_carriage(shared: &Shared, handle: u32, carriage: &Carriage) -> Result<(), EngineError> {
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
    shared.socket_for(carriage).map(|_| ()).ok_or(no_socket)
}

fn keep_open(shared: &Shared, pair: &Arc<Pair>, keepalive: u64) {
    let mut kept_open = locked(&shared.kept_open);
    if keepalive == 0 {
        kept_open.remove(&pair.handle);
    } else {
        kept_open.insert(pair.handle, Arc::clone(pair));
    }
}

fn find(shared: &Shared, handle: u32) -> Result<Arc<Pair>, EngineError> {
    shared
        .sad
        .find(handle)
        .ok_or(EngineError::UnknownSpi(handle))
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
