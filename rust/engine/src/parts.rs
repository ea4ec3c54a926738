//! Everything that an engine consists of, put together once. Only the threads' assembly and `engine.rs` see it whole: each
//! stage is handed what it uses.

use std::sync::Arc;

use openmoat_esp::drops::DropCounters;
use openmoat_esp::reassembly::{Budget, MAX_HELD_BY_ALL};
use openmoat_io::{DeviceError, OuterSocket, TunDevice};

use crate::config::Config;
use crate::doorbell::Doorbell;
use crate::events::Events;
use crate::inbound::ike_queues::IkeQueues;
use crate::inbound::{self, InboundWorker};
use crate::installer::Installer;
use crate::offloads::Probed;
use crate::outbound::batch_order::BatchOrder;
use crate::outbound::bundle::Bundle;
use crate::outbound::encapsulator::Encapsulator;
use crate::outbound::flows::FlowCache;
use crate::outbound::icmp_answers::IcmpAnswers;
use crate::outbound::keepalive::KeepAlives;
use crate::outbound::refusals::Refusals;
use crate::outbound::{self, OutboundWorker};
use crate::outbox::Outbox;
use crate::outer_sockets::OuterSockets;
use crate::sizes::ladder::IdentifierGuard;
use crate::tables::policies::Policies;
use crate::tables::sad::Sad;

/// What the two threads of one worker are reached by.
pub struct Worker {
    /// Doorbell of the outbound thread.
    pub outbound: Arc<Doorbell>,
    /// Doorbell of the inbound one.
    pub inbound: Arc<Doorbell>,
    /// What the inbound thread leaves for the outbound one.
    outbox: Arc<Outbox>,
    /// Their queue of the TUN device, if there is one.
    pub tun: Option<Arc<dyn TunDevice>>,
}

/// The parts of an engine.
pub struct Parts {
    /// Workers: as many as the TUN device has queues.
    pub workers: Vec<Worker>,
    /// The outside.
    pub sockets: Arc<OuterSockets>,
    /// Pairs.
    pub sad: Arc<Sad>,
    /// Policies.
    pub policies: Arc<Policies>,
    /// News for the daemon.
    pub events: Arc<Events>,
    /// IKE datagrams.
    pub ike: Arc<IkeQueues>,
    /// Drops of no pair.
    pub drops: Arc<DropCounters>,
    /// Paths that are kept open.
    pub keepalives: Arc<KeepAlives>,
    /// What the kernel does for us.
    pub offloads: Probed,
    guard: Arc<IdentifierGuard>,
}

impl Parts {
    /// Nothing installed; and what installs.
    pub fn new(
        tun: Vec<Arc<dyn TunDevice>>,
        sockets: Vec<Arc<dyn OuterSocket>>,
        config: Config,
    ) -> Result<(Self, Installer), DeviceError> {
        let count = tun.len().max(1);
        let mut queues = tun.into_iter();
        let workers = (0..count).map(|_| Worker::new(queues.next()));
        let drops = Arc::new(DropCounters::default());
        let sockets = Arc::new(OuterSockets::new(sockets, count));
        let parts = Self {
            workers: workers.collect::<Result<_, _>>()?,
            sad: Arc::new(Sad::new(config.slots)),
            policies: Arc::default(),
            events: Arc::new(Events::new(config.slots, config.noise)?),
            ike: Arc::new(IkeQueues::new(config.ike_queue)?),
            keepalives: Arc::new(KeepAlives::new(Arc::clone(&sockets), Arc::clone(&drops))),
            offloads: Probed::new(config.offloads),
            guard: Arc::default(),
            sockets,
            drops,
        };
        let installer = Installer::new(
            &config,
            Arc::clone(&parts.sad),
            Arc::clone(&parts.policies),
            Arc::clone(&parts.sockets),
            Arc::clone(&parts.keepalives),
            Arc::new(Budget::new(MAX_HELD_BY_ALL)),
        );
        Ok((parts, installer))
    }

    /// Doorbells of all threads.
    pub fn bells(&self) -> impl Iterator<Item = &Doorbell> {
        self.workers
            .iter()
            .flat_map(|pair| [&*pair.outbound, &*pair.inbound])
    }

    /// Ask the devices once what the kernel can do for us.
    pub fn enable_offloads(&self) {
        let tun = self.workers.iter().filter_map(|pair| pair.tun.as_deref());
        self.offloads.enable(tun, self.sockets.all());
    }

    /// The stages of an outbound worker.
    pub fn outbound(&self, worker: usize) -> OutboundWorker {
        let pair = &self.workers[worker];
        let (drops, events) = (&self.drops, &self.events);
        let senders = self.sockets.senders(worker).to_vec();
        let bundle = Bundle::new(senders, Arc::clone(&self.sad), Arc::clone(drops));
        let answers = IcmpAnswers::new(pair.tun.clone(), Arc::clone(drops));
        OutboundWorker {
            lookups: outbound::Lookups {
                policies: Arc::clone(&self.policies),
                sad: Arc::clone(&self.sad),
                sockets: Arc::clone(&self.sockets),
                drops: Arc::clone(drops),
            },
            flows: FlowCache::new(Arc::clone(&self.policies), Arc::clone(&self.sockets)),
            encapsulator: Encapsulator::new(
                worker,
                self.workers.len() == 1,
                bundle,
                Arc::clone(&self.guard),
                Arc::clone(events),
            ),
            refusals: Refusals::new(answers, Arc::clone(events), Arc::clone(drops)),
            outbox: Arc::clone(&pair.outbox),
            order: BatchOrder::default(),
        }
    }

    /// The stages of an inbound worker. Offloads have been asked for.
    pub fn inbound(&self, worker: usize) -> InboundWorker {
        let pair = &self.workers[worker];
        let lookups = inbound::Lookups {
            sad: Arc::clone(&self.sad),
            events: Arc::clone(&self.events),
            ike: Arc::clone(&self.ike),
            drops: Arc::clone(&self.drops),
        };
        let joins = self.offloads.joins();
        InboundWorker::new(lookups, pair.tun.clone(), joins, Arc::clone(&pair.outbox))
    }
}

impl Worker {
    fn new(tun: Option<Arc<dyn TunDevice>>) -> Result<Self, DeviceError> {
        let outbound = Arc::new(Doorbell::new()?);
        Ok(Self {
            outbox: Arc::new(Outbox::new(Arc::clone(&outbound))),
            outbound,
            inbound: Arc::new(Doorbell::new()?),
            tun,
        })
    }
}
