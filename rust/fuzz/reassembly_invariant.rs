//! Invariant: whatever payloads come on an SA that carries AGGFRAG, in whatever order, nothing is delivered that a slow
//! receiver with endless memory would not deliver by then, nothing twice, and no more is held than the bounds allow;
//! after a silence nothing is held at all. Nothing panics.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use openmoat_esp::drops::DropCounters;
use openmoat_esp::reassembly::{
    AssemblyBuffer, Budget, Delivery, MAX_HELD, Reassembler, SILENCE, WINDOW,
};

/// Budgets to choose from: none, too little for the slots alone, for some pieces, for all.
const BUDGETS: [usize; 4] = [0, 10_000, 40_000, 64 << 20];

/// A record with this step lets a silence pass.
const SILENT: i8 = i8::MIN;

/// The first octet chooses the budget, and how many payloads are taken together. Then records: a step from the last sequence
/// number, two octets of length, a payload.
///
/// Answers with how many packets were delivered.
pub fn hold(octets: &[u8]) -> usize {
    let Some((&choice, mut rest)) = octets.split_first() else {
        return 0;
    };
    let budget = Arc::new(Budget::new(BUDGETS[usize::from(choice & 3)]));
    let mut bench = Bench::new(budget.clone(), 1 + usize::from(choice >> 2) % 8);
    while let Some((&[step, high, low], tail)) = rest.split_first_chunk() {
        let size = usize::from(u16::from_be_bytes([high, low]));
        let (payload, tail) = tail.split_at(size.min(tail.len()));
        rest = tail;
        bench.step(step as i8, payload);
        assert!(bench.reassembler.held() <= MAX_HELD);
        assert!(budget.used() == bench.reassembler.held());
        assert!(budget.used() <= BUDGETS[usize::from(choice & 3)]);
    }
    bench.sit();
    let delivered = bench.delivered;
    drop(bench);
    assert_eq!(budget.used(), 0);
    delivered
}

struct Bench {
    reassembler: Reassembler,
    drops: DropCounters,
    octets: Vec<u8>,
    /// Payloads of a batch, with their numbers, and how many there are at most.
    waiting: Vec<(u64, Vec<u8>)>,
    together: usize,
    model: Model,
    /// What the model has delivered and ours has not (yet).
    due: HashMap<Vec<u8>, usize>,
    /// The replay window stands before: no number comes twice.
    seen: HashSet<u64>,
    sequence: u64,
    now: u64,
    delivered: usize,
}

impl Bench {
    fn new(budget: Arc<Budget>, together: usize) -> Self {
        Self {
            reassembler: Reassembler::new(budget),
            drops: DropCounters::default(),
            octets: vec![0; AssemblyBuffer::NEEDED],
            waiting: Vec::new(),
            together,
            model: Model::default(),
            due: HashMap::new(),
            seen: HashSet::new(),
            sequence: WINDOW as u64 * 2,
            now: 0,
            delivered: 0,
        }
    }

    fn step(&mut self, step: i8, payload: &[u8]) {
        if step == SILENT {
            self.sit();
            self.now += SILENCE;
            self.reassembler.expire(self.now, &self.drops);
            assert_eq!(self.reassembler.held(), 0);
            return;
        }
        self.sequence = self.sequence.saturating_add_signed(step.into()).max(1);
        if self.seen.insert(self.sequence) {
            for packet in self.model.receive(self.sequence, payload) {
                *self.due.entry(packet).or_default() += 1;
            }
            self.waiting.push((self.sequence, payload.to_vec()));
            if self.waiting.len() >= self.together {
                self.sit();
            }
        }
    }

    /// Take all that wait.
    fn sit(&mut self) {
        while !self.waiting.is_empty() {
            for packet in self.receive() {
                let due = self.due.entry(packet).or_default();
                assert!(*due > 0, "nobody sent it, or it comes twice");
                *due -= 1;
                self.delivered += 1;
            }
        }
    }

    /// Take as many of those that wait as there is room for.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        let (mut source, mut deliveries, mut taken) = (Vec::new(), Vec::new(), 0);
        let places: Vec<_> = (self.waiting.iter())
            .map(|(sequence, payload)| {
                let start = source.len() + (sequence % 3) as usize;
                source.resize(start, 0x45);
                source.extend_from_slice(payload);
                (*sequence, start..source.len())
            })
            .collect();
        let bench = AssemblyBuffer::new(&mut self.octets, usize::MAX);
        let mut batch = self.reassembler.begin(&mut source, &self.drops, bench);
        for (sequence, place) in places {
            if !batch.has_room() {
                break;
            }
            taken += 1;
            let _ = batch.accept((sequence, self.now), place, |delivery| {
                deliveries.push(delivery);
            });
        }
        batch.finish();
        self.waiting.drain(..taken);
        let octets = |delivery| match delivery {
            Delivery::Whole(range) | Delivery::Joined(range) => source[range].to_vec(),
            Delivery::Assembled(range) => self.octets[range].to_vec(),
        };
        deliveries.into_iter().map(octets).collect()
    }
}

/// A receiver as RFC 9347 2.5 has it, that keeps everything and goes through it anew with each payload.
#[derive(Default)]
struct Model {
    /// BlockOffset and data blocks, by sequence number.
    payloads: BTreeMap<u64, (usize, Vec<u8>)>,
    /// What begins in a payload and does not end there, until it is delivered.
    heads: BTreeMap<u64, Vec<u8>>,
}

impl Model {
    fn receive(&mut self, sequence: u64, payload: &[u8]) -> Vec<Vec<u8>> {
        let header = match payload.first() {
            Some(0) => 4,
            Some(1) => 24,
            _ => return Vec::new(),
        };
        let Some(data) = payload.get(header..).map(<[u8]>::to_vec) else {
            return Vec::new();
        };
        let offset = usize::from(u16::from_be_bytes([payload[2], payload[3]]));
        let (mut packets, head) = blocks(data.get(offset..).unwrap_or_default());
        self.payloads.insert(sequence, (offset, data));
        if !head.is_empty() {
            self.heads.insert(sequence, head);
        }
        let ends: Vec<_> = (self.heads.iter())
            .filter_map(|(&start, head)| Some((start, self.whole(start, head)?)))
            .collect();
        for (start, packet) in ends {
            self.heads.remove(&start);
            packets.push(packet);
        }
        packets
    }

    /// The packet that begins with `head` in a payload, if all of it has come and its offsets agree.
    fn whole(&self, start: u64, head: &[u8]) -> Option<Vec<u8>> {
        let (mut packet, mut length) = (head.to_vec(), length(head).ok()?);
        for sequence in start + 1.. {
            let (offset, data) = self.payloads.get(&sequence)?;
            if *offset == 0 && data.first().is_none_or(|first| first >> 4 == 0) {
                continue;
            }
            let wanted = *length.get_or_insert(packet.len() + offset);
            if *offset == 0 || packet.len() + offset != wanted {
                return None;
            }
            packet.extend_from_slice(&data[..data.len().min(*offset)]);
            if packet.len() == wanted {
                break;
            }
        }
        (self::length(&packet) == Ok(Some(packet.len()))).then_some(packet)
    }
}

/// The whole packets that begin here, and the one that does not end here.
fn blocks(mut data: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut packets = Vec::new();
    while data.first().is_some_and(|first| first >> 4 != 0) {
        match length(data) {
            Ok(Some(length)) if length <= data.len() => {
                packets.push(data[..length].to_vec());
                data = &data[length..];
            }
            Ok(_) => return (packets, data.to_vec()),
            Err(()) => break,
        }
    }
    (packets, Vec::new())
}

/// Octets of the packet that begins here; None where too few are here to tell.
fn length(data: &[u8]) -> Result<Option<usize>, ()> {
    let word = |at: usize| {
        Some(usize::from(u16::from_be_bytes([
            *data.get(at)?,
            *data.get(at + 1)?,
        ])))
    };
    match data[0] >> 4 {
        4 => {
            let header = usize::from(data[0] & 15) * 4;
            match word(2) {
                Some(total) if header < 20 || total < header => Err(()),
                total => Ok(total),
            }
        }
        6 => Ok(word(4).map(|payload| 40 + payload)),
        _ => Err(()),
    }
}
