//! Policies and sizes by lines, so that the Python that decides them can be held against the Rust that carries them out.
//!
//! In: `policy ID RANK LOCAL REMOTE` puts a policy (lists of `START-END-PROTOCOL-PORT-PORT`, separated by commas),
//! `remove ID` takes it away, `clear` all of them, `find SOURCE DESTINATION PROTOCOL PORT PORT` asks for an
//! outbound packet (`-` for a port it does not show), `sizes SUITE OCTETS` for the ESP packet around so many octets and
//! the largest inner packet in an ESP packet of so many. Out: `ok ...` or `error TEXT`.

use std::io::{BufRead, Write};
use std::net::IpAddr;
use std::sync::Arc;

use openmoat_esp::selectors::{Selector, SelectorPair};
use openmoat_esp::spd::{Action, Missing, Policy, Spd};
use openmoat_esp::suite::Suite;
use openmoat_esp::wire::{Flow, Ports};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let (mut spd, mut out) = (Spd::default(), std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let answer = answer(&mut spd, &line?).unwrap_or_else(|error| format!("error {error}"));
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn answer(spd: &mut Spd, line: &str) -> Result<String, Failure> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["policy", id, rank, local, remote] => {
            let policy = Policy {
                id: id.parse()?,
                rank: rank.parse()?,
                action: Action::Protect,
                missing: Missing::Drop,
                selectors: SelectorPair {
                    local: selectors(local)?,
                    remote: selectors(remote)?,
                },
            };
            *spd = spd.changed([Arc::new(policy)], []);
            Ok("ok".into())
        }
        ["remove", id] => {
            *spd = spd.changed([], [id.parse()?]);
            Ok("ok".into())
        }
        ["clear"] => {
            *spd = Spd::default();
            Ok("ok".into())
        }
        ["find", flow @ ..] => {
            let found = spd.outbound(&flow_of(flow)?);
            Ok(found.map_or("ok none".into(), |policy| format!("ok {}", policy.id)))
        }
        ["sizes", suite, octets] => {
            let suite = Suite::by_name(suite).ok_or_else(|| format!("no suite {suite:?}"))?;
            let octets = octets.parse()?;
            Ok(format!(
                "ok {} {}",
                suite.sealed_size(octets),
                suite.inner_room(octets)
            ))
        }
        _ => Err(format!("a verb and its words, got {line:?}").into()),
    }
}

fn flow_of(words: &[&str]) -> Result<Flow, Failure> {
    let [source, destination, protocol, source_port, destination_port] = words else {
        return Err(format!("the five words of a flow, got {words:?}").into());
    };
    Ok(Flow {
        source: source.parse()?,
        destination: destination.parse()?,
        protocol: protocol.parse()?,
        ports: match (*source_port, *destination_port) {
            ("-", "-") => Ports::Opaque,
            (source, destination) => Ports::Known(source.parse()?, destination.parse()?),
        },
    })
}

fn selectors(text: &str) -> Result<Box<[Selector]>, Failure> {
    text.split(',').map(selector).collect()
}

fn selector(text: &str) -> Result<Selector, Failure> {
    let words: Vec<&str> = text.split('-').collect();
    let &[start, end, protocol, first, last] = words.as_slice() else {
        return Err(format!("START-END-PROTOCOL-PORT-PORT, got {text:?}").into());
    };
    let (start, end): (IpAddr, IpAddr) = (start.parse()?, end.parse()?);
    Ok(Selector::new(
        start,
        end,
        protocol.parse()?,
        first.parse()?,
        last.parse()?,
    )?)
}
