//! What a peer may seal and what becomes of it: good payloads, bad ones, and marks.

use super::*;

/// Seals for the second engine as its peer, whatever we like.
struct Peer {
    apart: Apart,
    sa: OutboundSa,
}

impl Peer {
    fn new(options: &Options) -> Self {
        let apart = Apart::new(options);
        let handle = apart.handles.1;
        let keys = keys(options, handle);
        let config = SaConfig {
            spi: handle,
            suite: keys.suite,
            has_esn: false,
            key: &keys.key,
            integrity_key: &keys.integrity_key,
            selectors: apart.first.selectors(),
            limits: Limits::default(),
            last_sequence: 0,
        };
        let sa = OutboundSa::new(config, false).unwrap();
        Self { apart, sa }
    }

    /// Let the second engine receive these payloads, whole packets if that is so: what comes out, and what it drops.
    fn say(&self, payloads: &[(bool, Vec<u8>)]) -> (Vec<Vec<u8>>, Counters) {
        self.say_under(0, payloads)
    }

    /// The same under headers with this type of service.
    fn say_under(&self, tos: u8, payloads: &[(bool, Vec<u8>)]) -> (Vec<Vec<u8>>, Counters) {
        let path = self.apart.first.path(true);
        let sealed = payloads.iter().map(|(is_whole, payload)| Datagram {
            octets: self.seal(*is_whole, payload),
            segment: 0,
            source: path.local,
            destination: path.remote,
            tos,
            df: true,
        });
        self.apart.receive(sealed.collect())
    }

    fn seal(&self, is_whole: bool, payload: &[u8]) -> Vec<u8> {
        let suite = self.sa.suite();
        let mut packet = vec![0; suite.sealed_size(payload.len())];
        packet[suite.headroom()..][..payload.len()].copy_from_slice(payload);
        let seal = if is_whole {
            OutboundSa::seal
        } else {
            OutboundSa::seal_payload
        };
        seal(&self.sa, &mut packet, payload.len()).unwrap();
        packet
    }
}

#[test]
fn nothing_but_what_was_agreed_comes_out_of_an_sa() {
    let packet = numbered(false, 1, 100);
    let packed = [&[0, 0, 0, 0][..], &packet].concat();
    assert_eq!(NEXT_HEADER, 144);
    let (got, counters) =
        Peer::new(&options()).say(&[(true, packet.clone()), (false, packed.clone())]);
    assert_eq!(got, std::slice::from_ref(&packet));
    assert_eq!(counters.drops, [(DropReason::BadNextHeader, 1)]);
    let (got, counters) =
        Peer::new(&Options::default()).say(&[(false, packed), (true, packet.clone())]);
    assert_eq!(got, [packet]);
    assert_eq!(counters.drops, [(DropReason::AggfragUnexpected, 1)]);
}

#[test]
fn every_inner_packet_is_checked_by_itself_whatever_lies_beside_it() {
    let (good, strange) = (numbered(false, 1, 100), back(numbered(false, 2, 100)));
    let mut broken = numbered(true, 3, 100);
    broken[6] = 0; // hop-by-hop options that do not hold together
    let blocks = [&good[..], &strange, &broken, &good, &[0, 9, 9]].concat();
    let report = [&[1, 0, 0, 0][..], &[0; 20], &good].concat();
    let payloads = [
        (false, [&[0, 0xff, 0, 0][..], &blocks].concat()),
        (false, report),
        // One that is put together is checked no less.
        (false, [&[0, 0, 0, 0][..], &strange[..60]].concat()),
        (false, [&[0, 0, 0, 40][..], &strange[60..], &good].concat()),
    ];
    let (got, counters) = Peer::new(&options()).say(&payloads);
    assert_eq!(got, vec![good; 4]);
    let drops: HashMap<_, _> = counters.drops.iter().copied().collect();
    let expected = [
        (DropReason::OutsideSelectors, 2),
        (DropReason::MalformedInner, 1),
    ];
    assert_eq!(drops, HashMap::from(expected));
    assert_eq!(
        (
            counters[SaCounter::InboundPackets],
            counters[SaCounter::InboundReports]
        ),
        (4, 1)
    );
}

#[test]
fn a_mark_of_congestion_is_counted_and_reaches_no_inner_packet() {
    let packets: Vec<_> = (0..3_u8)
        .map(|ecn| {
            let mut packet = numbered(false, 1, 100);
            packet[1] = ecn;
            crate::sizes::segment::mend_ipv4_checksum(&mut packet[..20]);
            packet
        })
        .collect();
    for (ecn, marks) in [(0, 0), (1, 0), (2, 0), (3, 2)] {
        let payload = [&[0, 0, 0, 0][..], &packets.concat()].concat();
        let payloads = [(false, payload.clone()), (false, payload)];
        let (got, counters) = Peer::new(&options()).say_under(ecn, &payloads);
        assert_eq!(got, [&packets[..], &packets].concat());
        assert_eq!(
            (counters[SaCounter::InboundMarks], counters.drops),
            (marks, vec![])
        );
    }
}

/// What the network does to one sealed packet: how often it arrives, and how much later than its place.
fn fates() -> impl Strategy<Value = (usize, usize)> {
    let copies = prop_oneof![8 => Just(1_usize), 1 => Just(0), 1 => Just(2)];
    let delay = prop_oneof![6 => Just(0_usize), 3 => 0..6_usize, 1 => 0..80_usize];
    (copies, delay)
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 40..100_usize, 4 => 1_000..2_000_usize, 2 => 40..10_000_usize, 1 => 60_000..=65_535_usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn packets_come_out_as_they_went_in_or_not_at_all_whatever_the_network_does(
        sizes in prop::collection::vec(sizes(), 1..50),
        room in prop_oneof![Just(ROOM), Just(512), Just(1_434), 64..9_000_usize],
        fates in prop::collection::vec(fates(), 64),
    ) {
        let apart = Apart::new(&Options { plan: plan(room), ..Options::default() });
        let packets: Vec<_> =
            sizes.iter().enumerate().map(|(n, size)| numbered(n % 2 == 1, n, *size)).collect();
        let (sealed, _) = apart.send(&packets);
        let is_calm = fates.iter().all(|fate| *fate == (1, 0));
        let mut arrivals = Vec::new();
        for (place, sealed) in sealed.into_iter().enumerate() {
            let (copies, delay) = fates[place % fates.len()];
            arrivals.extend((0..copies).map(|copy| (place + delay * (copy + 1), sealed.clone())));
        }
        prop_assume!(!arrivals.is_empty());
        arrivals.sort_by_key(|(time, _)| *time);
        let (got, counters) = apart.receive(arrivals.into_iter().map(|(_, sealed)| sealed).collect());
        // No two of them are alike, so that none may come twice.
        let distinct: HashSet<_> = got.iter().collect();
        prop_assert_eq!(distinct.len(), got.len());
        prop_assert!(distinct.iter().all(|packet| packets.contains(*packet)));
        prop_assert!(!is_calm || got.len() == packets.len());
        prop_assert_eq!(counters[SaCounter::InboundPackets], got.len() as u64);
    }
}

#[test]
fn a_train_without_loss_comes_out_whole_in_its_order_through_every_room() {
    for room in [64, 100, 512, ROOM, 1_434, 9_000, 65_000] {
        let apart = Apart::new(&Options {
            plan: plan(room),
            ..Options::default()
        });
        let packets: Vec<_> = (0..60)
            .map(|n| numbered(n % 2 == 0, n, 40 + n * n * n % 3_000))
            .collect();
        let (sealed, _) = apart.send(&packets);
        let (got, counters) = apart.receive(sealed);
        assert_eq!((got, counters.drops), (packets, vec![]), "room {room}");
    }
}

#[test]
fn framing_cannot_change_under_a_living_pair() {
    let (first, second) = gateways();
    let (handle, _) = connect(&first, &second, &options());
    let update = |plan: MtuPlan| {
        Command::Update(Box::new(crate::command::Update {
            handle,
            plan: Some(plan),
            ..Default::default()
        }))
    };
    assert!(
        first
            .engine
            .apply(vec![update(MtuPlan::default())])
            .is_err()
    );
    first.apply(vec![update(plan(500))]);
    let packet = udp(false, 7, &[9; 3_000]);
    first.send(packet.clone());
    assert_eq!(second.expect(), packet);
    let counters = &first.engine.read_counters(Some(&[handle]))[0];
    assert_eq!(packed(counters), (0, 1, 7));
}
