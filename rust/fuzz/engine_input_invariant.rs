//! Invariant: whatever stands before or in a packet of the TUN device, whatever a stranger sends in one datagram or in a
//! train of them, and whatever the peer itself has sealed, the engine has no fault and goes on; what it seals, its peer can
//! open; and what the peer has sealed comes out octet for octet, joined or not, or is a drop under a name. The same holds
//! for AGGFRAG payloads, in any order, of which nothing comes out but what they hold; values in them are sent back as they
//! came, in pad, and nothing else is.

use std::cell::RefCell;
use std::sync::Arc;

use openmoat_engine::command::Command;
use openmoat_engine::plan::{Framing, MtuPlan};
use openmoat_esp::aggfrag::Header;
use openmoat_esp::meter::Limits;
use openmoat_esp::reassembly::{AssemblyBuffer, Budget, Delivery, MAX_HELD_BY_ALL, Reassembler};
use openmoat_esp::sa::{InboundSa, OutboundSa, SaConfig};
use openmoat_esp::selectors::SelectorPair;
use openmoat_esp::spd::{Action, Missing};
use openmoat_esp::wire::IpPacket;
use openmoat_io::memory::Datagram;
use openmoat_io::{BATCH, VNET_HEADER, VnetHeader};

use crate::lab::{Gateway, Options, gateways, keys};
use crate::oracle;

/// The SPI of the peer, by which the engine seals.
const THEIRS: u32 = 0xc0ff_ee01;

/// The same for the pair with AGGFRAG, which seals nothing but marks that it sends back.
const THEIRS_PACKED: u32 = 0xc0ff_ee02;

/// Octets of the longest inner packet of a train.
const MAX_INNER: usize = 2_047;

/// An engine with one pair, and the peer's halves in our hands.
struct Bench {
    gateway: Gateway,
    /// Kept, as the sockets of the first end in it.
    _far: Gateway,
    handle: u32,
    sender: OutboundSa,
    /// What the engine itself opens with: says which packets are to come out.
    twin: InboundSa,
    receiver: InboundSa,
    /// The same for a pair with AGGFRAG: what the peer seals by, and what says which packets are to come out.
    packer: OutboundSa,
    unpacker: Unpacker,
    /// Opens what that pair seals.
    marks: InboundSa,
}

/// Opens AGGFRAG payloads as the engine does.
struct Unpacker {
    sa: InboundSa,
    reassembler: Reassembler,
    bench: Vec<u8>,
}

impl Unpacker {
    fn open(&mut self, sealed: &[u8]) -> Vec<Vec<u8>> {
        let mut packet = sealed.to_vec();
        let Ok(opened) = self.sa.open_payload(&mut packet) else {
            return Vec::new();
        };
        let (payload, mut places) = (opened.inner.unwrap(), Vec::new());
        let bench = AssemblyBuffer::new(&mut self.bench, usize::MAX);
        let mut batch = self.reassembler.begin(&mut packet, self.sa.drops(), bench);
        let _ = batch.accept((opened.sequence, 0), payload, |delivery| {
            places.push(delivery)
        });
        batch.finish();
        let octets = places.into_iter().map(|place| match place {
            Delivery::Whole(at) | Delivery::Joined(at) => packet[at].to_vec(),
            Delivery::Assembled(at) => self.bench[at].to_vec(),
        });
        octets
            .filter(|octets| self.sa.admit(octets).is_ok_and(goes_on))
            .collect()
    }
}

/// Other packets end at the gateway, which has no address of its own here to say so from.
fn goes_on(packet: IpPacket) -> bool {
    packet.hops > 1
}

thread_local! {
    /// One for all inputs: that it goes on is part of the invariant.
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

/// The first octet chooses who speaks, the rest is what is said.
pub fn hold(octets: &[u8]) {
    let Some((&choice, octets)) = octets.split_first() else {
        return;
    };
    BENCH.with_borrow_mut(|slot| {
        let bench = slot.get_or_insert_with(Bench::new);
        match choice % 4 {
            0 => bench.hold_for_the_host(octets),
            1 => bench.hold_for_strangers(octets),
            2 => bench.hold_for_the_peer(octets),
            _ => bench.hold_for_payloads(octets),
        }
        assert_eq!(bench.gateway.drops("engine-fault"), 0);
    });
}

/// An SA with AGGFRAG between ours.
fn packing() -> Options {
    Options {
        plan: MtuPlan {
            framing: Framing::Aggfrag,
            echoes: true,
            watch_above: Some(1_214),
            ..MtuPlan::default()
        },
        ..Options::default()
    }
}

impl Bench {
    fn new() -> Self {
        let (gateway, far) = gateways();
        let options = Options::default();
        let handle = gateway.engine.reserve_spis(1)[0];
        gateway.apply(vec![
            gateway.policy(Action::Protect, Missing::Drop),
            gateway.add_inbound(handle, &options),
            gateway.add_outbound(handle, THEIRS, &options),
            Command::Activate(handle),
        ]);
        let packed = gateway.engine.reserve_spis(1)[0];
        let packing = packing();
        gateway.apply(vec![
            gateway.add_inbound(packed, &packing),
            gateway.add_outbound(packed, THEIRS_PACKED, &packing),
        ]);
        gateway.begin();
        let sender = with_config(handle, far.selectors(), |config| {
            OutboundSa::new(config, true).unwrap()
        });
        let inbound = |config: SaConfig<'_>| InboundSa::new(config, 1024).unwrap();
        Self {
            sender,
            twin: with_config(handle, gateway.selectors(), inbound),
            receiver: with_config(THEIRS, far.selectors(), inbound),
            marks: with_config(THEIRS_PACKED, far.selectors(), inbound),
            packer: with_config(packed, far.selectors(), |config| {
                OutboundSa::new(config, true).unwrap()
            }),
            unpacker: Unpacker {
                sa: with_config(packed, gateway.selectors(), inbound),
                reassembler: Reassembler::new(Arc::new(Budget::new(MAX_HELD_BY_ALL))),
                bench: vec![0; AssemblyBuffer::NEEDED],
            },
            handle,
            gateway,
            _far: far,
        }
    }

    /// A vnet header, which may lie, and a packet.
    fn hold_for_the_host(&mut self, octets: &[u8]) {
        let Some((header, packet)) = octets.split_first_chunk::<VNET_HEADER>() else {
            return;
        };
        let last = marker(1);
        self.gateway.tun.send([
            (VnetHeader::parse(header), packet.to_vec()),
            (VnetHeader::default(), last.clone()),
        ]);
        loop {
            let sent = self.gateway.sent().unwrap();
            let step = if sent.segment == 0 {
                sent.octets.len()
            } else {
                sent.segment
            };
            for sealed in sent.octets.chunks(step) {
                let mut sealed = sealed.to_vec();
                if sealed.starts_with(&THEIRS_PACKED.to_be_bytes()) {
                    self.hold_for_mark(&mut sealed);
                    continue;
                }
                let opened = self.receiver.open(&mut sealed, 0).unwrap();
                let inner = &sealed[opened.inner.unwrap().range];
                assert!(IpPacket::parse(inner).is_ok_and(|parsed| parsed.length == inner.len()));
                if inner == last {
                    while self.gateway.tun.receive().is_some() {}
                    return;
                }
            }
        }
    }

    /// What the pair with AGGFRAG has sealed.
    fn hold_for_mark(&self, sealed: &mut [u8]) {
        let payload = self.marks.open_payload(sealed).unwrap().inner.unwrap();
        let header = Header::parse(&sealed[payload.clone()]).unwrap();
        let said = header.congestion.unwrap();
        assert!(said.echo != 0 && said.value == 0 && header.block_offset == 0);
        assert!(
            sealed[payload][header.size..]
                .iter()
                .all(|octet| *octet == 0)
        );
    }

    /// A datagram, or several of one size; now and then they bear the SPI of the pair.
    fn hold_for_strangers(&mut self, octets: &[u8]) {
        let Some((&size, octets)) = octets.split_first() else {
            return;
        };
        let mut octets = octets.to_vec();
        if size % 2 == 0 && octets.len() >= 4 {
            octets[..4].copy_from_slice(&self.handle.to_be_bytes());
        }
        let strange = self.datagram(octets, usize::from(size / 2));
        let last = marker(2);
        let sealed = self.seal(&last).unwrap();
        let _ = self.twin.open(&mut sealed.clone(), 0);
        let sealed = self.datagram(sealed, 0);
        self.gateway.udp.deliver_all([strange, sealed]);
        assert_eq!(self.gateway.expect(), last);
        self.gateway.engine.receive_ike(BATCH);
        self.gateway.engine.drain(BATCH);
    }

    /// Packets with two octets of length before each, sealed by the peer and received at once.
    fn hold_for_the_peer(&mut self, octets: &[u8]) {
        let (mut rest, mut wanted, mut train) = (octets, Vec::new(), Vec::new());
        let last = marker(2);
        while let Some((size, tail)) = rest
            .split_first_chunk::<2>()
            .filter(|_| train.len() + 1 < BATCH)
        {
            let size = usize::from(u16::from_be_bytes(*size)) & MAX_INNER;
            let (inner, tail) = tail.split_at(size.min(tail.len()));
            rest = tail;
            if inner != last
                && let Some(sealed) = self.seal(inner)
            {
                wanted.extend(self.open_as_the_engine(&sealed));
                train.push(self.datagram(sealed, 0));
            }
        }
        let sealed = self.seal(&last).unwrap();
        wanted.extend(self.open_as_the_engine(&sealed));
        train.push(self.datagram(sealed, 0));
        self.gateway.udp.deliver_all(train);
        self.expect(wanted);
    }

    /// Payloads with an octet before each that says by how many it comes later than its turn, and two octets of length.
    fn hold_for_payloads(&mut self, octets: &[u8]) {
        let (mut rest, mut train) = (octets, Vec::new());
        while let Some(([delay, high, low], tail)) = rest
            .split_first_chunk::<3>()
            .filter(|_| train.len() + 1 < BATCH)
        {
            let size = usize::from(u16::from_be_bytes([*high, *low])) & MAX_INNER;
            let (payload, tail) = tail.split_at(size.min(tail.len()));
            rest = tail;
            let packet = self.seal_payload(payload);
            train.push((train.len() + usize::from(delay % 8), packet));
        }
        train.sort_by_key(|(place, _)| *place);
        // With this, nothing that waits can be completed by what comes later.
        let last = [&[0; 4][..], &marker(2)].concat();
        train.push((usize::MAX, self.seal_payload(&last)));
        let (mut wanted, mut datagrams) = (Vec::new(), Vec::new());
        for (_, sealed) in train {
            wanted.extend(self.unpacker.open(&sealed));
            datagrams.push(self.datagram(sealed, 0));
        }
        self.gateway.udp.deliver_all(datagrams);
        self.expect(wanted);
    }

    fn expect(&self, mut wanted: Vec<Vec<u8>>) {
        let mut got = Vec::new();
        while got.len() < wanted.len() {
            let (vnet, octets) = self.gateway.receive().unwrap();
            got.extend(oracle::cut(&vnet, &octets));
        }
        got.sort();
        wanted.sort();
        assert_eq!(got, wanted);
    }

    fn seal(&self, inner: &[u8]) -> Option<Vec<u8>> {
        let suite = self.sender.suite();
        let mut packet = vec![0; suite.sealed_size(inner.len())];
        packet[suite.headroom()..][..inner.len()].copy_from_slice(inner);
        self.sender.seal(&mut packet, inner.len()).ok()?;
        Some(packet)
    }

    fn seal_payload(&self, payload: &[u8]) -> Vec<u8> {
        let suite = self.packer.suite();
        let mut packet = vec![0; suite.sealed_size(payload.len())];
        packet[suite.headroom()..][..payload.len()].copy_from_slice(payload);
        let sealed = self.packer.seal_payload(&mut packet, payload.len());
        assert!(sealed.is_ok());
        packet
    }

    fn open_as_the_engine(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let mut packet = sealed.to_vec();
        let inner = self.twin.open(&mut packet, 0).ok()?.inner.ok()?;
        goes_on(inner.packet).then(|| packet[inner.range].to_vec())
    }

    fn datagram(&self, octets: Vec<u8>, segment: usize) -> Datagram {
        let path = self.gateway.path(true);
        Datagram {
            octets,
            segment,
            source: path.remote,
            destination: path.local,
            tos: 0,
            df: false,
        }
    }
}

/// A packet from the first or the second network that is told from all others by its size.
fn marker(net: u8) -> Vec<u8> {
    let mut packet = vec![0; 777];
    packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 7, 0, 0, 64, 17, 0, 0]);
    packet[12..24].copy_from_slice(&[10, net, 0, 1, 10, 3 - net, 0, 1, 0x27, 0x0f, 0x27, 0x0f]);
    oracle::finish(&mut packet);
    packet
}

fn with_config<T>(spi: u32, selectors: SelectorPair, make: impl FnOnce(SaConfig<'_>) -> T) -> T {
    let options = Options::default();
    let keys = keys(&options, spi);
    make(SaConfig {
        spi,
        suite: keys.suite,
        has_esn: options.has_esn,
        key: &keys.key,
        integrity_key: &keys.integrity_key,
        selectors,
        limits: Limits::default(),
        last_sequence: 0,
    })
}
