//! Records of `dataplane.backend`, `policy.spd` and `mtu.plan` on their way down: each field is read by its name.

use std::net::IpAddr;

use openmoat_engine::command::{AddInbound, AddOutbound, Carriage, Keys, NEVER, Update};
use openmoat_engine::ladder::Rung;
use openmoat_engine::plan::{Framing, IcmpSource, MtuPlan, OuterDf};
use openmoat_esp::aggfrag::MIN_ROOM;
use openmoat_esp::icmp_error::IcmpCheck;
use openmoat_esp::meter::Limits;
use openmoat_esp::mss::MssBounds;
use openmoat_esp::selectors::{Selector, SelectorPair};
use openmoat_esp::spd::{Action, Missing, Policy};
use openmoat_esp::suite::Suite;
use openmoat_io::Path;
use pyo3::conversion::FromPyObjectOwned;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{dataplane_error, misuse};
use crate::types::address;

const NANOSECONDS: f64 = 1e9;

/// A record of Python's.
#[derive(Clone)]
pub struct Record<'py>(pub Bound<'py, PyAny>);

impl<'py> Record<'py> {
    fn field(&self, name: &str) -> PyResult<Record<'py>> {
        self.0.getattr(name).map(Record)
    }

    fn value<T: FromPyObjectOwned<'py>>(&self, name: &str) -> PyResult<T> {
        self.0.getattr(name)?.extract().map_err(Into::into)
    }

    /// A field that may be None.
    fn maybe<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Record<'py>) -> PyResult<T>,
    ) -> PyResult<Option<T>> {
        let field = self.field(name)?;
        if field.0.is_none() {
            return Ok(None);
        }
        read(&field).map(Some)
    }

    fn items(&self, name: &str) -> PyResult<Vec<Record<'py>>> {
        let items = self.0.getattr(name)?.try_iter()?;
        items.map(|item| item.map(Record)).collect()
    }

    /// A member of an enumeration, by the word that is its value.
    fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> PyResult<T> {
        let word: String = self.field(name)?.value("value")?;
        one_of(name, &word, words)
    }

    fn octets(&self, name: &str) -> PyResult<Vec<u8>> {
        Ok(self.0.getattr(name)?.cast::<PyBytes>()?.as_bytes().to_vec())
    }

    fn address(&self, name: &str) -> PyResult<IpAddr> {
        address(self.field(name)?.0.getattr("packed")?.cast::<PyBytes>()?)
    }
}

fn one_of<T: Copy>(name: &str, word: &str, words: &[(&str, T)]) -> PyResult<T> {
    let found = words.iter().find(|(known, _)| *known == word);
    let known = || words.iter().map(|(known, _)| *known).collect::<Vec<_>>();
    found.map(|(_, value)| *value).ok_or_else(|| {
        misuse(format!(
            "{name}: one of {}, got {word:?}",
            known().join(", ")
        ))
    })
}

const FRAMINGS: &[(&str, Framing)] = &[("whole", Framing::Whole), ("aggfrag", Framing::Aggfrag)];
const CARRIED_IN_UDP: &[(&str, bool)] = &[("udp", true), ("raw", false)];

/// See `backend.AddInbound`.
pub fn add_inbound(record: &Record<'_>) -> PyResult<AddInbound> {
    let is_strict: bool = record.value("strict_icmp")?;
    Ok(AddInbound {
        spi: record.value("spi")?,
        keys: keys(record)?,
        carriage: carriage(record)?,
        selectors: selectors(record)?,
        replay_window: record.value("replay_window")?,
        limits: limits(&record.field("limits")?)?,
        framing: record.word("framing", FRAMINGS)?,
        icmp_check: if is_strict {
            IcmpCheck::Strict
        } else {
            IcmpCheck::Outside
        },
    })
}

/// See `backend.AddOutbound`.
pub fn add_outbound(record: &Record<'_>) -> PyResult<AddOutbound> {
    Ok(AddOutbound {
        handle: record.value("handle")?,
        spi: record.value("spi")?,
        keys: keys(record)?,
        carriage: carriage(record)?,
        selectors: selectors(record)?,
        policy: record.value("policy")?,
        plan: plan(&record.field("plan")?)?,
        limits: limits(&record.field("limits")?)?,
        copies_dscp: record.value("copy_dscp")?,
        keepalive: nanoseconds(record.value("keepalive_seconds")?),
        hard_at: record.maybe("hard_at", instant)?.unwrap_or(NEVER),
    })
}

/// See `backend.Update`.
pub fn update(record: &Record<'_>) -> PyResult<Update> {
    let is_udp = record.maybe("encapsulation", |_| {
        record.word("encapsulation", CARRIED_IN_UDP)
    })?;
    Ok(Update {
        handle: record.value("handle")?,
        path: record.maybe("path", path)?,
        is_udp,
        plan: record.maybe("plan", plan)?,
        limits: record.maybe("limits", limits)?,
        keepalive: record.maybe("keepalive_seconds", instant)?,
        hard_at: record.maybe("hard_at", instant)?,
    })
}

/// See `policy.spd.Policy`.
pub fn policy(record: &Record<'_>) -> PyResult<Policy> {
    let actions = [
        ("protect", Action::Protect),
        ("pass", Action::Pass),
        ("drop", Action::Drop),
        ("reject", Action::Reject),
    ];
    let missing = [
        ("drop", Missing::Drop),
        ("trap", Missing::Trap),
        ("reject", Missing::Reject),
    ];
    Ok(Policy {
        id: record.value("id")?,
        rank: record.value("rank")?,
        action: record.word("action", &actions)?,
        missing: record.word("missing", &missing)?,
        selectors: selectors(record)?,
    })
}

fn keys(record: &Record<'_>) -> PyResult<Keys> {
    let suite = record.field("suite")?;
    let encryption = suite.field("encryption")?;
    let integrity = suite.maybe("integrity", |row| row.value("id"))?;
    let numbers = (
        encryption.value("id")?,
        encryption.value("key_bits")?,
        integrity.unwrap_or(0),
    );
    Ok(Keys {
        suite: Suite::by_numbers(numbers.0, numbers.1, numbers.2)
            .map_err(|error| dataplane_error(record.0.py(), error.to_string()))?,
        has_esn: suite.value("esn")?,
        key: record.octets("key")?.into(),
        integrity_key: record.octets("integrity_key")?.into(),
    })
}

fn carriage(record: &Record<'_>) -> PyResult<Carriage> {
    Ok(Carriage {
        path: path(&record.field("path")?)?,
        is_udp: record.word("encapsulation", CARRIED_IN_UDP)?,
    })
}

fn path(record: &Record<'_>) -> PyResult<Path> {
    let end = |name| {
        let end = record.field(name)?;
        Ok::<_, PyErr>((end.address("address")?, end.value("port")?).into())
    };
    crate::types::checked_path(end("local")?, end("remote")?)
}

fn selectors(record: &Record<'_>) -> PyResult<SelectorPair> {
    let side =
        |name| -> PyResult<Box<[Selector]>> { record.items(name)?.iter().map(selector).collect() };
    Ok(SelectorPair {
        local: side("local")?,
        remote: side("remote")?,
    })
}

fn selector(record: &Record<'_>) -> PyResult<Selector> {
    let made = Selector::new(
        number_as_address(record, "first")?,
        number_as_address(record, "last")?,
        record.value("protocol")?,
        record.value("start_port")?,
        record.value("end_port")?,
    );
    made.map_err(|error| misuse(error.to_string()))
}

/// An end of a selector, which is a number there.
fn number_as_address(record: &Record<'_>, name: &str) -> PyResult<IpAddr> {
    Ok(match record.value::<u8>("version")? {
        4 => record.value::<u32>(name)?.to_be_bytes().into(),
        _ => record.value::<u128>(name)?.to_be_bytes().into(),
    })
}

fn limits(record: &Record<'_>) -> PyResult<Limits> {
    Ok(Limits {
        soft_octets: record.value("soft_octets")?,
        hard_octets: record.value("hard_octets")?,
        soft_packets: record.value("soft_packets")?,
        hard_packets: record.value("hard_packets")?,
    })
}

fn plan(record: &Record<'_>) -> PyResult<MtuPlan> {
    let (framing, inner_room) = (
        record.word("framing", FRAMINGS)?,
        record.value("inner_room")?,
    );
    if framing == Framing::Aggfrag && inner_room < MIN_ROOM {
        return Err(misuse(format!(
            "inner_room: AGGFRAG needs {MIN_ROOM} octets, got {inner_room}"
        )));
    }
    let outer_df = [
        ("clear", OuterDf::Clear),
        ("set", OuterDf::Set),
        ("copy", OuterDf::Copy),
    ];
    Ok(MtuPlan {
        framing,
        slices: record.value("slices")?,
        outer_size: record.value("outer_size")?,
        inner_room,
        mss: MssBounds {
            v4: record.value("mss_v4")?,
            v6: record.value("mss_v6")?,
        },
        outer_df: record.word("outer_df", &outer_df)?,
        oversize: rungs(record)?,
        watch_above: record.value("watch_above")?,
        echoes: record.value("echoes")?,
        too_big_per_second: record.value("too_big_per_second")?,
        icmp_sources: icmp_sources(record)?,
    })
}

fn rungs(record: &Record<'_>) -> PyResult<Vec<Rung>> {
    let known = [
        ("fragment-inner", Rung::FragmentInner),
        ("minimum-outer", Rung::MinimumOuter),
        ("fragment-outer", Rung::FragmentOuter),
        ("fragment-anyway", Rung::FragmentAnyway),
        ("refuse", Rung::Refuse),
    ];
    let rungs = record.items("oversize")?;
    let rung = |rung: &Record<'_>| {
        let word: String = rung.value("value")?;
        one_of("oversize", &word, &known)
    };
    rungs.iter().map(rung).collect()
}

fn icmp_sources(record: &Record<'_>) -> PyResult<Vec<IcmpSource>> {
    let source = |row: &Record<'_>| {
        let prefix = row.field("prefix")?;
        Ok(IcmpSource {
            first: prefix.address("network_address")?,
            last: prefix.address("broadcast_address")?,
            address: row.address("address")?,
        })
    };
    record.items("icmp_sources")?.iter().map(source).collect()
}

fn instant(seconds: &Record<'_>) -> PyResult<u64> {
    Ok(nanoseconds(seconds.0.extract()?))
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * NANOSECONDS) as u64 // saturates; NaN and what is negative are 0
}
