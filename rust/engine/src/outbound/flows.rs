//! What was found for a flow, so that policies and selectors are looked through once per flow and generation.

use std::net::IpAddr;
use std::sync::Arc;

use openmoat_esp::wire::{Flow, Ports};

use crate::command::Carriage;
use crate::outbound::bundle::Address;
use crate::outer_sockets::OuterSockets;
use crate::tables::pair::{Outbound, Pair, Settings};
use crate::tables::policies::{Policies, Served};

/// Flows remembered at a time, in some megabytes; two that share a place put each other out.
const PLACES: usize = 16_384;

/// What to do with the packets of a flow.
pub struct Choice {
    /// The policy of lowest rank that selects it, and what serves that.
    pub served: Option<Arc<Served>>,
    /// The newest active pair of it whose selectors take the flow.
    pub route: Option<Route>,
}

/// A pair that has an outbound half, with what holds for all its packets until the tables change.
pub struct Route {
    /// The pair.
    pub pair: Arc<Pair>,
    /// Its settings as they were looked up.
    pub settings: Arc<Settings>,
    /// Where its packets go; None where no socket leads there.
    pub address: Option<Address>,
}

impl Route {
    /// A pair as it is now.
    pub fn of(pair: &Arc<Pair>, sockets: &OuterSockets) -> Option<Self> {
        let settings = pair.outbound.get()?.settings.load_full();
        let Carriage { path, .. } = settings.carriage;
        let address = sockets
            .socket_for(&settings.carriage)
            .map(|socket| Address {
                socket,
                local: path.local,
                remote: path.remote,
                tos: 0,
                df: false,
                fragment_size: 0,
                handle: pair.handle,
                may_join: true,
            });
        Some(Self {
            pair: Arc::clone(pair),
            settings,
            address,
        })
    }

    /// The outbound half.
    pub fn outbound(&self) -> Option<&Outbound> {
        self.pair.outbound.get()
    }
}

/// A direct-mapped cache of one thread.
pub struct FlowCache {
    policies: Arc<Policies>,
    sockets: Arc<OuterSockets>,
    /// Places that hold something, so that forgetting costs what is remembered.
    taken: Vec<u32>,
    places: Box<[Option<(Flow, Choice)>]>,
    generation: u64,
}

impl FlowCache {
    /// Nothing is remembered yet of what these say.
    pub fn new(policies: Arc<Policies>, sockets: Arc<OuterSockets>) -> Self {
        Self {
            policies,
            sockets,
            taken: Vec::with_capacity(PLACES),
            places: (0..PLACES).map(|_| None).collect(),
            generation: 0,
        }
    }

    /// Forget everything if the tables have changed; answers whether they had. Removed pairs are released here.
    pub fn refresh(&mut self) -> bool {
        let generation = self.policies.generation();
        let has_changed = generation != self.generation;
        if has_changed {
            for index in self.taken.drain(..) {
                self.places[index as usize] = None;
            }
            self.generation = generation;
        }
        has_changed
    }

    /// The choice for a flow.
    pub fn choose(&mut self, flow: &Flow) -> &Choice {
        let index = hash(flow) % PLACES;
        let place = &mut self.places[index];
        match place {
            Some((known, _)) if known == flow => {}
            Some(_) => *place = None,
            None => self.taken.push(index as u32),
        }
        &place
            .get_or_insert_with(|| (*flow, look_up(flow, &self.policies, &self.sockets)))
            .1
    }
}

/// Look through policies by rank, then through the pairs of the one that selects.
fn look_up(flow: &Flow, policies: &Policies, sockets: &OuterSockets) -> Choice {
    let spd = policies.spd.load();
    let served = spd.outbound(flow).cloned();
    let route = served.as_ref().and_then(|served| {
        let pairs = served.service.pairs.load();
        let takes = |pair: &&Arc<Pair>| {
            pair.outbound
                .get()
                .is_some_and(|outbound| outbound.sa.selectors().takes_outbound(flow))
        };
        pairs
            .iter()
            .find(takes)
            .and_then(|pair| Route::of(pair, sockets))
    });
    Choice { served, route }
}

fn hash(flow: &Flow) -> usize {
    let fold = |address: IpAddr| match address {
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6) as u64 ^ ((u128::from(v6) >> 64) as u64).rotate_left(17),
    };
    let ports = match flow.ports {
        Ports::Known(source, destination) => (u64::from(source) << 16) | u64::from(destination),
        Ports::Opaque => u64::MAX,
    };
    let mixed = fold(flow.source).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ fold(flow.destination).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
        ^ (ports ^ (u64::from(flow.protocol) << 40)).wrapping_mul(0x1656_67b1_9e37_79f9);
    (mixed >> 40) as usize
}
