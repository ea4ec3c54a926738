//! The security policy database (RFC 4301 4.4.1): which policy of lowest rank selects a packet. Immutable once built.
//!
//! The truth is a linear scan in order of rank. What runs is a tuple search: each policy lies in buckets keyed by the
//! prefixes that cover its remote and its local ranges, one hash table per pair of prefix lengths, so that a lookup asks
//! one bucket per pair of lengths in use, however many policies there are. Tables are tried in order of their lowest
//! rank, and the search ends where no better one can come. Only policies with equal prefixes at both ends, which differ
//! by protocol or port, are scanned.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::selectors::{Ends, Selector, SelectorPair};
use crate::wire::Flow;

/// Policies put or taken away since the index was built, above which it is built anew.
pub const MAX_DELTA: usize = 256;

/// What happens to outbound packets a policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Through an SA.
    Protect,
    /// In clear, past the TUN device.
    Pass,
    /// Nowhere.
    Drop,
    /// Nowhere, with an answer.
    Reject,
}

/// What happens to a packet of a `Protect` policy while no SA serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Missing {
    /// Nothing.
    Drop,
    /// The daemon is told, the first packets are held.
    Trap,
    /// An answer.
    Reject,
}

/// One entry of the SPD, in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Number the daemon gave it.
    pub id: u32,
    /// Place in the total order, unique, lowest wins.
    pub rank: u32,
    /// What happens.
    pub action: Action,
    /// What happens without an SA.
    pub missing: Missing,
    /// Which packets.
    pub selectors: SelectorPair,
}

impl AsRef<Policy> for Policy {
    fn as_ref(&self) -> &Policy {
        self
    }
}

/// All policies of one moment: an index, and what has changed since it was built.
///
/// `P` is a policy and whatever its owner keeps beside it, so that one lookup finds both.
#[derive(Debug)]
pub struct Spd<P = Policy> {
    index: Arc<Index<P>>,
    /// Ids of the index that are replaced or gone, sorted.
    hidden: Vec<u32>,
    /// In order of rank.
    added: Vec<Arc<P>>,
}

impl<P> Clone for Spd<P> {
    fn clone(&self) -> Self {
        Self {
            index: Arc::clone(&self.index),
            hidden: self.hidden.clone(),
            added: self.added.clone(),
        }
    }
}

impl<P> Default for Spd<P> {
    fn default() -> Self {
        Self {
            index: Arc::default(),
            hidden: Vec::new(),
            added: Vec::new(),
        }
    }
}

impl<P: AsRef<Policy>> Spd<P> {
    /// Build the database of these policies, whose ids and ranks are unique.
    pub fn build(policies: impl IntoIterator<Item = Arc<P>>) -> Self {
        Self {
            index: Arc::new(Index::build(policies.into_iter().collect())),
            ..Self::default()
        }
    }

    /// The database with some policies put (added, or replaced by id) and some taken away.
    ///
    /// Shares the index as long as the changes since its making are few: adding one policy to many costs little.
    pub fn changed(
        &self,
        put: impl IntoIterator<Item = Arc<P>>,
        removed: impl IntoIterator<Item = u32>,
    ) -> Self {
        let mut next = self.clone();
        for id in removed {
            next.hide(id);
        }
        for policy in put {
            let Policy { id, rank, .. } = *(*policy).as_ref();
            next.hide(id);
            let at = next
                .added
                .partition_point(|other| (**other).as_ref().rank < rank);
            next.added.insert(at, policy);
        }
        if next.added.len() + next.hidden.len() <= MAX_DELTA {
            next
        } else {
            Self::build(next.policies().cloned())
        }
    }

    fn hide(&mut self, id: u32) {
        self.added.retain(|policy| (**policy).as_ref().id != id);
        if self.index.ids.contains_key(&id)
            && let Err(at) = self.hidden.binary_search(&id)
        {
            self.hidden.insert(at, id);
        }
    }

    /// All policies, in no order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<P>> {
        let kept = self
            .index
            .policies
            .iter()
            .filter(|policy| self.hidden.binary_search(&(***policy).as_ref().id).is_err());
        kept.chain(&self.added)
    }

    /// The policy of this id.
    pub fn find(&self, id: u32) -> Option<&Arc<P>> {
        let added = self
            .added
            .iter()
            .find(|policy| (***policy).as_ref().id == id);
        added.or_else(|| {
            let position = *self.index.ids.get(&id)? as usize;
            let is_shown = self.hidden.binary_search(&id).is_err();
            self.index.policies.get(position).filter(|_| is_shown)
        })
    }

    /// The policy of an outbound packet.
    pub fn outbound(&self, flow: &Flow) -> Option<&Arc<P>> {
        self.lookup(&Ends::outbound(flow))
    }

    /// The policy of an inbound packet.
    pub fn inbound(&self, flow: &Flow) -> Option<&Arc<P>> {
        self.lookup(&Ends::inbound(flow))
    }

    fn lookup(&self, ends: &Ends) -> Option<&Arc<P>> {
        let added = self
            .added
            .iter()
            .find(|policy| (***policy).as_ref().selectors.takes(ends));
        let indexed = self.index.lookup(ends, &self.hidden);
        match (added, indexed) {
            (Some(added), Some(indexed)) => {
                let is_first = (**added).as_ref().rank < (**indexed).as_ref().rank;
                Some(if is_first { added } else { indexed })
            }
            (added, indexed) => added.or(indexed),
        }
    }
}

/// Policies in order of rank, so that a position is as good as a rank, and where to look for them.
#[derive(Debug)]
struct Index<P> {
    policies: Vec<Arc<P>>,
    /// Positions by id.
    ids: HashMap<u32, u32>,
    v4: Vec<Table>,
    v6: Vec<Table>,
}

/// All policies whose ranges are covered by prefixes of one pair of lengths.
#[derive(Debug)]
struct Table {
    masks: Prefixes,
    /// Lowest position in it.
    first: u32,
    buckets: HashMap<Prefixes, Vec<u32>, BuildHasherDefault<PrefixHasher>>,
}

/// Network bits at both ends; as masks, or as the networks themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Prefixes {
    remote: u128,
    local: u128,
}

impl<P> Default for Index<P> {
    fn default() -> Self {
        Self {
            policies: Vec::new(),
            ids: HashMap::new(),
            v4: Vec::new(),
            v6: Vec::new(),
        }
    }
}

impl<P: AsRef<Policy>> Index<P> {
    fn build(mut policies: Vec<Arc<P>>) -> Self {
        policies.sort_unstable_by_key(|policy| (**policy).as_ref().rank);
        let mut index = Self::default();
        for (position, policy) in (0..).zip(&policies) {
            let policy = (**policy).as_ref();
            index.ids.insert(policy.id, position);
            for remote in &policy.selectors.remote {
                for local in policy
                    .selectors
                    .local
                    .iter()
                    .filter(|local| local.is_v4() == remote.is_v4())
                {
                    index.insert(position, remote, local);
                }
            }
        }
        index.policies = policies;
        // Positions came in rising order, so tables already stand in order of their lowest one.
        index
    }

    fn insert(&mut self, position: u32, remote: &Selector, local: &Selector) {
        let tables = if remote.is_v4() {
            &mut self.v4
        } else {
            &mut self.v6
        };
        for (remote, remote_mask) in remote.covers() {
            for (local, local_mask) in local.covers() {
                let masks = Prefixes {
                    remote: remote_mask,
                    local: local_mask,
                };
                let at = tables
                    .iter()
                    .position(|table| table.masks == masks)
                    .unwrap_or_else(|| {
                        tables.push(Table {
                            masks,
                            first: position,
                            buckets: HashMap::default(),
                        });
                        tables.len() - 1
                    });
                let bucket = tables[at]
                    .buckets
                    .entry(Prefixes { remote, local })
                    .or_default();
                if bucket.last() != Some(&position) {
                    bucket.push(position);
                }
            }
        }
    }

    fn lookup(&self, ends: &Ends, hidden: &[u32]) -> Option<&Arc<P>> {
        let mut best = u32::MAX;
        let tables = if ends.remote.is_v4 {
            &self.v4
        } else {
            &self.v6
        };
        for table in tables {
            if table.first >= best {
                break;
            }
            let networks = Prefixes {
                remote: ends.remote.address & table.masks.remote,
                local: ends.local.address & table.masks.local,
            };
            let Some(bucket) = table.buckets.get(&networks) else {
                continue;
            };
            let takes = |position: u32| {
                let policy = (*self.policies[position as usize]).as_ref();
                policy.selectors.takes(ends)
                    && (hidden.is_empty() || hidden.binary_search(&policy.id).is_err())
            };
            let better = bucket
                .iter()
                .copied()
                .take_while(|&position| position < best);
            best = better
                .into_iter()
                .find(|&position| takes(position))
                .unwrap_or(best);
        }
        self.policies.get(best as usize)
    }
}

/// Multiplies and folds. The keys in the tables are ours, not a stranger's, so nobody can fill one bucket from outside.
#[derive(Default)]
struct PrefixHasher(u64);

impl Hasher for PrefixHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        octets
            .iter()
            .for_each(|&octet| self.write_u128(octet.into()));
    }

    fn write_u128(&mut self, value: u128) {
        const ODD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        let product = (value ^ u128::from(self.0)).wrapping_mul(ODD);
        self.0 = (product >> 64) as u64 ^ product as u64;
        self.0 ^= self.0 >> 29;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Ports;
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn linear<'a>(policies: &'a [Arc<Policy>], flow: &Flow) -> Option<&'a Arc<Policy>> {
        policies
            .iter()
            .filter(|policy| policy.selectors.takes_outbound(flow))
            .min_by_key(|policy| policy.rank)
    }

    /// Few distinct addresses near boundaries, so that ranges and packets meet often.
    fn address(is_v4: bool) -> impl Strategy<Value = IpAddr> {
        let v4 = prop_oneof![
            0_u32..8,
            Just(u32::MAX),
            0x0a00_00f8_u32..0x0a00_0108,
            0x7fff_fffe_u32..0x8000_0002
        ];
        let v6 = prop_oneof![
            0_u128..8,
            Just(u128::MAX),
            (0_u128..16).prop_map(|low| (0x2001_0db8 << 96) | (low << 62) | low)
        ];
        let v4 = v4.prop_map(|bits| IpAddr::V4(bits.into()));
        let v6 = v6.prop_map(|bits| IpAddr::V6(bits.into()));
        if is_v4 { v4.boxed() } else { v6.boxed() }
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let ports = prop_oneof![3 => Just((0_u16, u16::MAX)), 1 => Just((u16::MAX, 0)), 2 => (0_u16..4).prop_map(|p| (p, p + 1))];
        any::<bool>()
            .prop_flat_map(|is_v4| (address(is_v4), address(is_v4)))
            .prop_flat_map(move |(one, other)| {
                (
                    Just((one.min(other), one.max(other))),
                    prop_oneof![Just(0_u8), Just(6), Just(17)],
                    ports.clone(),
                )
            })
            .prop_map(|((start, end), protocol, (first, last))| {
                Selector::new(start, end, protocol, first, last).unwrap()
            })
    }

    fn selectors() -> impl Strategy<Value = Box<[Selector]>> {
        prop::collection::vec(selector(), 1..4).prop_map(Into::into)
    }

    fn policies(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Arc<Policy>>> {
        prop::collection::vec((selectors(), selectors()), count)
            .prop_flat_map(|pairs| {
                let ranks: Vec<u32> = (1..=pairs.len() as u32).collect();
                (Just(pairs), Just(ranks).prop_shuffle())
            })
            .prop_map(|(pairs, ranks)| {
                let numbered = (1..).zip(pairs.into_iter().zip(ranks));
                numbered
                    .map(|(id, ((local, remote), rank))| {
                        Arc::new(policy(id, rank * 10, SelectorPair { local, remote }))
                    })
                    .collect()
            })
    }

    fn policy(id: u32, rank: u32, selectors: SelectorPair) -> Policy {
        Policy {
            id,
            rank,
            action: Action::Protect,
            missing: Missing::Drop,
            selectors,
        }
    }

    fn flow() -> impl Strategy<Value = Flow> {
        let ports = prop_oneof![
            Just(Ports::Opaque),
            (0_u16..5, 0_u16..5).prop_map(|(a, b)| Ports::Known(a, b))
        ];
        any::<bool>()
            .prop_flat_map(move |is_v4| {
                (
                    address(is_v4),
                    address(is_v4),
                    prop_oneof![Just(6_u8), Just(17), Just(47)],
                    ports.clone(),
                )
            })
            .prop_map(|(source, destination, protocol, ports)| Flow {
                source,
                destination,
                protocol,
                ports,
            })
    }

    fn mirrored(flow: &Flow) -> Flow {
        let ports = match flow.ports {
            Ports::Known(source, destination) => Ports::Known(destination, source),
            Ports::Opaque => Ports::Opaque,
        };
        Flow {
            source: flow.destination,
            destination: flow.source,
            protocol: flow.protocol,
            ports,
        }
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_linear_scan_finds(policies in policies(0..40), flows in prop::collection::vec(flow(), 40)) {
            let spd = Spd::build(policies.clone());
            for flow in &flows {
                let expected = linear(&policies, flow).map(|policy| policy.id);
                prop_assert_eq!(spd.outbound(flow).map(|policy| policy.id), expected);
                prop_assert_eq!(spd.inbound(&mirrored(flow)).map(|policy| policy.id), expected);
            }
        }

        #[test]
        fn changes_give_what_building_anew_gives(
            base in policies(0..30), others in policies(0..80), gone in prop::collection::vec(0_u32..80, 0..80), flows in prop::collection::vec(flow(), 20),
        ) {
            let mut spd = Spd::build(base.clone());
            let mut truth: HashMap<u32, Arc<Policy>> = base.into_iter().map(|policy| (policy.id, policy)).collect();
            for (put, id) in others.into_iter().zip(gone) {
                let put = Arc::new(Policy { rank: put.rank + 1, ..(*put).clone() });
                spd = spd.changed([put.clone()], [id]);
                truth.remove(&id);
                truth.insert(put.id, put);
            }
            let all: Vec<_> = truth.into_values().collect();
            prop_assert_eq!(spd.policies().count(), all.len());
            for id in 0..100 {
                prop_assert_eq!(spd.find(id), all.iter().find(|policy| policy.id == id));
            }
            for flow in &flows {
                prop_assert_eq!(spd.outbound(flow).map(|policy| policy.id), linear(&all, flow).map(|policy| policy.id));
            }
        }
    }

    #[test]
    fn few_changes_share_the_index_of_many_policies() {
        let policy = |id: u32| {
            let address: IpAddr = id.to_be_bytes().into();
            let side = || Box::from([Selector::new(address, address, 0, 0, u16::MAX).unwrap()]);
            let selectors = SelectorPair {
                local: side(),
                remote: side(),
            };
            Arc::new(Policy {
                id,
                rank: id,
                action: Action::Protect,
                missing: Missing::Drop,
                selectors,
            })
        };
        let all = Spd::build((0..1_000).map(policy));
        let mut spd = all.clone();
        for id in 1_000..1_000 + MAX_DELTA as u32 / 2 {
            spd = spd.changed([policy(id)], []);
        }
        assert!(Arc::ptr_eq(&spd.index, &all.index));
        assert!((0..MAX_DELTA as u32).all(|id| spd.find(id).is_some()));
        for id in 0..MAX_DELTA as u32 / 2 + 1 {
            spd = spd.changed([], [id]);
        }
        assert!(!Arc::ptr_eq(&spd.index, &all.index));
        assert_eq!((spd.added.len(), spd.hidden.len()), (0, 0));
    }

    #[test]
    fn an_empty_database_selects_nothing() {
        let flow = Flow {
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            protocol: 6,
            ports: Ports::Opaque,
        };
        assert!(<Spd>::default().outbound(&flow).is_none());
    }
}
