//! Two engines back to back over devices in memory, with fixed keys and a clock of their own: no thread, nothing waits.
//! Also part of tests outside this crate.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::oracle;
use openmoat_engine::command::{AddInbound, AddOutbound, Carriage, Command, Keys, NEVER};
use openmoat_engine::events::Event;
use openmoat_engine::plan::MtuPlan;
use openmoat_engine::{Config, Counters, Engine, Stepper};
use openmoat_esp::icmp_error::IcmpCheck;
use openmoat_esp::meter::Limits;
use openmoat_esp::selectors::{Selector, SelectorPair};
use openmoat_esp::spd::{Action, Missing, Policy};
use openmoat_esp::suite::Suite;
use openmoat_io::memory::{Datagram, MemorySocket, MemoryTun};
use openmoat_io::{GsoType, Offloads, OuterSocket, Path, SocketKind, TunDevice, VnetHeader};

/// Nanoseconds at which every test begins.
pub const BEGIN: u64 = 1_000_000_000_000;

/// The clock of the gateways that are joined, and what they do instead of threads.
struct World {
    now: Cell<u64>,
    steppers: [RefCell<Option<Stepper>>; 2],
}

pub const POLICY: u32 = 7;

/// One engine with its devices.
pub struct Gateway {
    pub engine: Engine,
    pub tun: Arc<MemoryTun>,
    /// All queues of the TUN device; `tun` is the first.
    pub queues: Vec<Arc<MemoryTun>>,
    pub udp: Arc<MemorySocket>,
    pub ike: Arc<MemorySocket>,
    pub raw: Arc<MemorySocket>,
    pub net: u8,
    world: Rc<World>,
}

/// How to install a tunnel.
#[derive(Clone)]
pub struct Options {
    pub suite: &'static str,
    pub has_esn: bool,
    pub is_udp: bool,
    pub plan: MtuPlan,
    pub limits: Limits,
    pub keepalive: u64,
    pub hard_at: u64,
    pub icmp_check: IcmpCheck,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            suite: "aes128gcm16",
            has_esn: false,
            is_udp: true,
            plan: MtuPlan::default(),
            limits: Limits::default(),
            keepalive: 0,
            hard_at: NEVER,
            icmp_check: IcmpCheck::Outside,
        }
    }
}

thread_local! {
    static OFFLOADS: Cell<Offloads> = const { Cell::new(Offloads::ALL) };
}

/// Every way that packets can take through the offloads: all, none, those of either end alone.
pub const WAYS: [Offloads; 4] = [
    Offloads::ALL,
    Offloads::NONE,
    Offloads {
        udp_gso: false,
        udp_gro: false,
        ..Offloads::ALL
    },
    Offloads {
        tun_tso: false,
        tun_uso: false,
        ..Offloads::ALL
    },
];

/// Run a test whose gateways want only these offloads.
pub fn with_offloads(offloads: Offloads, test: impl FnOnce()) {
    OFFLOADS.set(offloads);
    test();
}

/// What the gateways of this test want.
pub fn offloads() -> Offloads {
    OFFLOADS.get()
}

/// Networks 10.1.0.0/16 and fd01::/16 behind the first, 10.2.0.0/16 and fd02::/16 behind the second.
pub fn gateways() -> (Gateway, Gateway) {
    gateways_of(Config::default())
}

/// The same, of engines that are set so but for their size.
pub fn gateways_of(config: Config) -> (Gateway, Gateway) {
    gateways_with(config, 1)
}

/// The same, with so many queues of their TUN devices, and so workers.
pub fn gateways_with(config: Config, queues: usize) -> (Gateway, Gateway) {
    let (udp, udp_far) = MemorySocket::pair(SocketKind::Udp { port: 4500 }, false).unwrap();
    let (ike, ike_far) = MemorySocket::pair(SocketKind::Udp { port: 500 }, false).unwrap();
    let (raw, raw_far) = MemorySocket::pair(SocketKind::Raw, false).unwrap();
    let world = Rc::new(World {
        now: Cell::new(BEGIN),
        steppers: Default::default(),
    });
    (
        gateway([udp, ike, raw], 1, &world, config, queues),
        gateway([udp_far, ike_far, raw_far], 2, &world, config, queues),
    )
}

fn gateway(
    sockets: [MemorySocket; 3],
    net: u8,
    world: &Rc<World>,
    mut config: Config,
    queues: usize,
) -> Gateway {
    let queues: Vec<_> = (0..queues)
        .map(|_| Arc::new(MemoryTun::new().unwrap()))
        .collect();
    let [udp, ike, raw] = sockets.map(Arc::new);
    let devices = queues
        .iter()
        .map(|tun| Arc::<MemoryTun>::clone(tun) as Arc<dyn TunDevice>)
        .collect();
    let sockets: Vec<Arc<dyn OuterSocket>> = vec![
        Arc::<MemorySocket>::clone(&udp),
        Arc::<MemorySocket>::clone(&ike),
        Arc::<MemorySocket>::clone(&raw),
    ];
    (config.slots, config.ike_queue, config.noise) = (256, 16, 16);
    config.offloads = offloads();
    Gateway {
        engine: Engine::new(devices, sockets, config).unwrap(),
        tun: Arc::clone(&queues[0]),
        queues,
        udp,
        ike,
        raw,
        net,
        world: Rc::clone(world),
    }
}

impl Gateway {
    pub fn outer(&self, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, self.net], port))
    }

    fn other(&self) -> u8 {
        3 - self.net
    }

    pub fn path(&self, is_udp: bool) -> Path {
        let port = if is_udp { 4500 } else { 0 };
        Path {
            local: self.outer(port),
            remote: SocketAddr::from(([192, 0, 2, self.other()], port)),
        }
    }

    pub fn selectors(&self) -> SelectorPair {
        SelectorPair {
            local: nets(self.net),
            remote: nets(self.other()),
        }
    }

    pub fn policy(&self, action: Action, missing: Missing) -> Command {
        let selectors = self.selectors();
        Command::PutPolicy(Box::new(Policy {
            id: POLICY,
            rank: 100,
            action,
            missing,
            selectors,
        }))
    }

    pub fn add_inbound(&self, spi: u32, options: &Options) -> Command {
        Command::AddInbound(Box::new(AddInbound {
            spi,
            keys: keys(options, spi),
            carriage: Carriage {
                path: self.path(options.is_udp),
                is_udp: options.is_udp,
            },
            selectors: self.selectors(),
            replay_window: 1024,
            limits: options.limits,
            framing: options.plan.framing,
            icmp_check: options.icmp_check,
        }))
    }

    pub fn add_outbound(&self, handle: u32, spi: u32, options: &Options) -> Command {
        Command::AddOutbound(Box::new(AddOutbound {
            handle,
            spi,
            keys: keys(options, spi),
            carriage: Carriage {
                path: self.path(options.is_udp),
                is_udp: options.is_udp,
            },
            selectors: self.selectors(),
            policy: POLICY,
            plan: options.plan.clone(),
            limits: options.limits,
            copies_dscp: true,
            keepalive: options.keepalive,
            hard_at: options.hard_at,
        }))
    }

    pub fn apply(&self, commands: Vec<Command>) -> Vec<Counters> {
        self.engine.apply(commands).unwrap()
    }

    /// Carry packets from now on, as `Engine::start` lets threads do.
    pub fn begin(&self) {
        *self.stepper().borrow_mut() = Some(self.engine.stepper());
    }

    fn stepper(&self) -> &RefCell<Option<Stepper>> {
        &self.world.steppers[usize::from(self.net) - 1]
    }

    pub fn now(&self) -> u64 {
        self.world.now.get()
    }

    /// Let time pass, for both gateways.
    pub fn advance(&self, time: Duration) {
        self.world.now.set(self.now() + time.as_nanos() as u64);
    }

    /// Let both gateways carry all that waits.
    pub fn settle(&self) {
        let step = |stepper: &RefCell<Option<Stepper>>| {
            let mut stepper = stepper.borrow_mut();
            stepper
                .as_mut()
                .is_some_and(|stepper| stepper.step(self.now()))
        };
        while self
            .world
            .steppers
            .iter()
            .map(step)
            .fold(false, |any, one| any | one)
        {}
    }

    /// Let this gateway alone carry all that waits.
    pub fn work(&self) {
        if let Some(stepper) = self.stepper().borrow_mut().as_mut() {
            while stepper.step(self.now()) {}
        }
    }

    /// The next datagram that this gateway alone has sent from its port 4500, before the other has seen it.
    pub fn sent(&self) -> Option<Datagram> {
        self.work();
        self.udp.take_sent(Duration::ZERO)
    }

    pub fn send(&self, packet: Vec<u8>) {
        self.tun.send([(VnetHeader::default(), packet)]);
    }

    /// As the host, send what it would have sent as this, cut and finished where it may not leave that to us.
    pub fn send_super(&self, vnet: VnetHeader, octets: &[u8]) {
        let may_leave = match vnet.gso_type {
            GsoType::Udp => offloads().tun_uso,
            _ => offloads().tun_tso,
        };
        if may_leave {
            self.tun.send([(vnet, octets.to_vec())]);
        } else {
            let packets = oracle::cut(&vnet, octets);
            self.tun.send(
                packets
                    .into_iter()
                    .map(|packet| (VnetHeader::default(), packet)),
            );
        }
    }

    /// What the host gets next, if anything.
    pub fn receive(&self) -> Option<(VnetHeader, Vec<u8>)> {
        self.settle();
        self.tun.receive()
    }

    pub fn expect(&self) -> Vec<u8> {
        let got = self.receive();
        got.unwrap_or_else(|| panic!("no packet came; drops: {:?}", self.engine.read_drops()))
            .1
    }

    /// What the daemon hears next.
    pub fn events(&self) -> Vec<Event> {
        self.settle();
        self.engine.drain(100)
    }

    pub fn drops(&self, name: &str) -> u64 {
        self.engine.read_drops().get(name).copied().unwrap_or(0)
    }
}

/// Keys made from the SPI, which both ends know.
pub fn keys(options: &Options, spi: u32) -> Keys {
    let suite = Suite::by_name(options.suite).unwrap();
    let octets = |size: usize, salt: u8| {
        (0..size)
            .map(|n| n as u8 ^ spi as u8 ^ salt)
            .collect::<Vec<_>>()
            .into()
    };
    Keys {
        suite,
        has_esn: options.has_esn,
        key: octets(suite.key_material(), 0),
        integrity_key: octets(suite.integrity_key(), 0x55),
    }
}

fn nets(net: u8) -> Box<[Selector]> {
    let v4 = |host: [u8; 2]| IpAddr::from([10, net, host[0], host[1]]);
    let v6 = |last: u16| {
        IpAddr::from([
            0xfd00 + u16::from(net),
            last,
            last,
            last,
            last,
            last,
            last,
            last,
        ])
    };
    [
        Selector::new(v4([0, 0]), v4([255, 255]), 0, 0, u16::MAX).unwrap(),
        Selector::new(v6(0), v6(u16::MAX), 0, 0, u16::MAX).unwrap(),
    ]
    .into()
}

/// Install a tunnel on both and start them; answers the handles.
pub fn connect(first: &Gateway, second: &Gateway, options: &Options) -> (u32, u32) {
    let handles = install(first, second, options);
    for gateway in [first, second] {
        gateway.begin();
    }
    handles
}

/// Install a tunnel on both, active both ways; answers the handles.
pub fn install(first: &Gateway, second: &Gateway, options: &Options) -> (u32, u32) {
    let (ours, theirs) = (
        first.engine.reserve_spis(1)[0],
        second.engine.reserve_spis(1)[0],
    );
    let ends = [(first, ours, theirs), (second, theirs, ours)];
    for (gateway, inbound, _) in ends {
        gateway.apply(vec![
            gateway.policy(Action::Protect, Missing::Drop),
            gateway.add_inbound(inbound, options),
        ]);
    }
    // As IKE has it: nobody sends on an SA before the other end can receive.
    for (gateway, inbound, outbound) in ends {
        gateway.apply(vec![
            gateway.add_outbound(inbound, outbound, options),
            Command::Activate(inbound),
        ]);
    }
    (ours, theirs)
}
