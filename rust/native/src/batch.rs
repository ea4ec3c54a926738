//! Commands for the engine, gathered one method a command.

use std::sync::{Mutex, MutexGuard, PoisonError};

use openmoat_engine::command::{AddInbound, AddOutbound, Carriage, Command, Keys, NEVER, Update};
use openmoat_esp::icmp_error::IcmpCheck;
use openmoat_esp::meter::Limits;
use openmoat_esp::spd::{Action, Missing, Policy};
use openmoat_esp::suite::Suite;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{dataplane_error, misuse};
use crate::types::{HostPort, MtuPlan, SelectorTuple, framing_of, path, selectors};

const NANOSECONDS: f64 = 1e9;

/// Soft and hard octets, soft and hard packets.
type LimitsTuple = (u64, u64, u64, u64);

/// Commands for `Engine.apply`, which takes them out.
#[pyclass(frozen, module = "openmoat._native")]
pub struct Batch(Mutex<Vec<Command>>);

impl Batch {
    /// All commands; the batch is empty after this.
    pub fn take(&self) -> Vec<Command> {
        std::mem::take(&mut *self.commands())
    }

    fn commands(&self) -> MutexGuard<'_, Vec<Command>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Batch {
    #[new]
    fn new() -> Self {
        Self(Mutex::default())
    }

    #[pyo3(signature = (*, spi, encryption, key_bits, integrity, esn, key, integrity_key, udp, local, remote, local_selectors, remote_selectors, replay_window, limits, framing, strict_icmp))]
    #[allow(clippy::too_many_arguments)] // keywords of Python
    fn add_inbound(
        &self,
        py: Python<'_>,
        spi: u32,
        encryption: u16,
        key_bits: u16,
        integrity: u16,
        esn: bool,
        key: &Bound<'_, PyBytes>,
        integrity_key: &Bound<'_, PyBytes>,
        udp: bool,
        local: HostPort<'_>,
        remote: HostPort<'_>,
        local_selectors: Vec<SelectorTuple<'_>>,
        remote_selectors: Vec<SelectorTuple<'_>>,
        replay_window: u32,
        limits: LimitsTuple,
        framing: &str,
        strict_icmp: bool,
    ) -> PyResult<()> {
        let command = AddInbound {
            spi,
            keys: keys(
                py,
                (encryption, key_bits, integrity),
                esn,
                key,
                integrity_key,
            )?,
            carriage: Carriage {
                path: path(&local, &remote)?,
                is_udp: udp,
            },
            selectors: selectors(&local_selectors, &remote_selectors)?,
            replay_window,
            limits: to_limits(limits),
            framing: framing_of(framing)?,
            icmp_check: if strict_icmp {
                IcmpCheck::Strict
            } else {
                IcmpCheck::Outside
            },
        };
        self.commands().push(Command::AddInbound(Box::new(command)));
        Ok(())
    }

    #[pyo3(signature = (*, handle, spi, encryption, key_bits, integrity, esn, key, integrity_key, udp, local, remote, local_selectors, remote_selectors, policy, plan, limits, copy_dscp, keepalive_seconds, hard_at))]
    #[allow(clippy::too_many_arguments)] // keywords of Python
    fn add_outbound(
        &self,
        py: Python<'_>,
        handle: u32,
        spi: u32,
        encryption: u16,
        key_bits: u16,
        integrity: u16,
        esn: bool,
        key: &Bound<'_, PyBytes>,
        integrity_key: &Bound<'_, PyBytes>,
        udp: bool,
        local: HostPort<'_>,
        remote: HostPort<'_>,
        local_selectors: Vec<SelectorTuple<'_>>,
        remote_selectors: Vec<SelectorTuple<'_>>,
        policy: u32,
        plan: &MtuPlan,
        limits: LimitsTuple,
        copy_dscp: bool,
        keepalive_seconds: f64,
        hard_at: Option<f64>,
    ) -> PyResult<()> {
        let command = AddOutbound {
            handle,
            spi,
            keys: keys(
                py,
                (encryption, key_bits, integrity),
                esn,
                key,
                integrity_key,
            )?,
            carriage: Carriage {
                path: path(&local, &remote)?,
                is_udp: udp,
            },
            selectors: selectors(&local_selectors, &remote_selectors)?,
            policy,
            plan: plan.0.clone(),
            limits: to_limits(limits),
            copies_dscp: copy_dscp,
            keepalive: nanoseconds(keepalive_seconds),
            hard_at: hard_at.map_or(NEVER, nanoseconds),
        };
        self.commands()
            .push(Command::AddOutbound(Box::new(command)));
        Ok(())
    }

    fn activate(&self, handle: u32) {
        self.commands().push(Command::Activate(handle));
    }

    #[pyo3(signature = (*, handle, udp=None, local=None, remote=None, plan=None, limits=None, keepalive_seconds=None, hard_at=None))]
    #[allow(clippy::too_many_arguments)] // keywords of Python
    fn update(
        &self,
        handle: u32,
        udp: Option<bool>,
        local: Option<HostPort<'_>>,
        remote: Option<HostPort<'_>>,
        plan: Option<&MtuPlan>,
        limits: Option<LimitsTuple>,
        keepalive_seconds: Option<f64>,
        hard_at: Option<f64>,
    ) -> PyResult<()> {
        let path = match (&local, &remote) {
            (Some(local), Some(remote)) => Some(path(local, remote)?),
            (None, None) => None,
            _ => return Err(misuse("update: local and remote go together")),
        };
        let command = Update {
            handle,
            path,
            is_udp: udp,
            plan: plan.map(|plan| plan.0.clone()),
            limits: limits.map(to_limits),
            keepalive: keepalive_seconds.map(nanoseconds),
            hard_at: hard_at.map(nanoseconds),
        };
        self.commands().push(Command::Update(Box::new(command)));
        Ok(())
    }

    fn remove(&self, handle: u32) {
        self.commands().push(Command::Remove(handle));
    }

    #[pyo3(signature = (*, id, rank, action, missing, local_selectors, remote_selectors))]
    fn put_policy(
        &self,
        id: u32,
        rank: u32,
        action: &str,
        missing: &str,
        local_selectors: Vec<SelectorTuple<'_>>,
        remote_selectors: Vec<SelectorTuple<'_>>,
    ) -> PyResult<()> {
        let policy = Policy {
            id,
            rank,
            action: action_of(action)?,
            missing: missing_of(missing)?,
            selectors: selectors(&local_selectors, &remote_selectors)?,
        };
        self.commands().push(Command::PutPolicy(Box::new(policy)));
        Ok(())
    }

    fn remove_policy(&self, id: u32) {
        self.commands().push(Command::RemovePolicy(id));
    }
}

fn keys(
    py: Python<'_>,
    (encryption, key_bits, integrity): (u16, u16, u16),
    has_esn: bool,
    key: &Bound<'_, PyBytes>,
    integrity_key: &Bound<'_, PyBytes>,
) -> PyResult<Keys> {
    let suite = Suite::by_numbers(encryption, key_bits, integrity)
        .map_err(|error| dataplane_error(py, error.to_string()))?;
    Ok(Keys {
        suite,
        has_esn,
        key: key.as_bytes().to_vec().into(),
        integrity_key: integrity_key.as_bytes().to_vec().into(),
    })
}

fn to_limits((soft_octets, hard_octets, soft_packets, hard_packets): LimitsTuple) -> Limits {
    Limits {
        soft_octets,
        hard_octets,
        soft_packets,
        hard_packets,
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * NANOSECONDS) as u64 // saturates; NaN and what is negative are 0
}

fn action_of(word: &str) -> PyResult<Action> {
    match word {
        "protect" => Ok(Action::Protect),
        "pass" => Ok(Action::Pass),
        "drop" => Ok(Action::Drop),
        "reject" => Ok(Action::Reject),
        _ => Err(misuse(format!(
            "action: protect, pass, drop or reject, got {word:?}"
        ))),
    }
}

fn missing_of(word: &str) -> PyResult<Missing> {
    match word {
        "drop" => Ok(Missing::Drop),
        "trap" => Ok(Missing::Trap),
        "reject" => Ok(Missing::Reject),
        _ => Err(misuse(format!(
            "missing: drop, trap or reject, got {word:?}"
        ))),
    }
}
