//! The cable: two ports in memory that lose, double, delay, reorder and corrupt frames, say again what was said long ago, and are busy
//! now and then. It sees frames before they are sealed, and whether they were opened: what must be so of that is judged in `seals`.

use crate::effects::{Effect, Effects};
use crate::faults::Class as Fault;
use crate::guard;
use crate::random::Random;
use crate::seals::{Made, Seals};
use crate::trace::{Event, Place, Tracer};
use ibid_driver::{Arena, Class, Port, PortBusy, PortCounters, Seal};
use ibid_units::{Nanos, Span};
use ibid_wire::peer::HEADER_BYTES;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// Ethernet, IPv4 and UDP headers.
const OVERHEAD: usize = 42;
/// Old frames that are kept to be said again.
const OLD_FRAMES: usize = 48;

/// How bad the cable is; chances of a thousand.
#[derive(Clone, Copy, Debug)]
pub struct NetFaults {
    pub loss: u32,
    pub double: u32,
    /// A frame of any earlier time comes again, also of an earlier session.
    pub replay: u32,
    pub reorder: u32,
    /// One bit.
    pub corrupt: u32,
    /// A run of bytes.
    pub burst: u32,
    pub truncate: u32,
    pub extend: u32,
    /// A byte of the frame's header.
    pub header: u32,
    /// A frame comes back to its sender.
    pub reflect: u32,
    pub busy: u32,
    /// Nanoseconds.
    pub delay: (u64, u64),
    /// How much later a frame comes that is reordered, nanoseconds; zeroes: up to four times the delay.
    pub late: (u64, u64),
    /// The narrowest place of the way, each way: bytes of whole frames in a second, and bytes that wait before it at most; what comes on
    /// top is lost.
    pub bottleneck: Option<(u64, u64)>,
}

impl NetFaults {
    pub const NONE: NetFaults = NetFaults {
        loss: 0,
        double: 0,
        replay: 0,
        reorder: 0,
        corrupt: 0,
        burst: 0,
        truncate: 0,
        extend: 0,
        header: 0,
        reflect: 0,
        busy: 0,
        delay: (2_000, 10_000),
        late: (0, 0),
        bottleneck: None,
    };
}

#[derive(Clone)]
struct Sent {
    bytes: Vec<u8>,
    /// Which frame it is, if a node has made it.
    made: Option<Made>,
}

fn corrupt(bytes: &mut Vec<u8>, harm: Fault, word: u64) {
    let length = bytes.len();
    let mut random = Random::new(word);
    match harm {
        Fault::NetBit => bytes[random.below(length as u64) as usize] ^= 1 << random.below(8),
        Fault::NetBurst => {
            let at = random.below(length as u64) as usize;
            let count = 2 + random.below(200) as usize;
            for byte in bytes.iter_mut().skip(at).take(count) {
                *byte = random.word() as u8;
            }
        }
        Fault::NetTruncated => bytes.truncate(random.below(length as u64) as usize),
        Fault::NetExtended => {
            for _ in 0..1 + random.below(100) {
                bytes.push(random.word() as u8);
            }
        }
        Fault::NetHeader => {
            let at = random.below(HEADER_BYTES.min(length) as u64) as usize;
            bytes[at] ^= 1 + random.below(255) as u8;
        }
        _ => panic!("{harm:?} is no harm to a frame's bytes"),
    }
}

/// Changes a datagram that is for a side.
pub type Tamper = Box<dyn FnMut(usize, &mut Vec<u8>)>;

/// What becomes of one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Passes,
    /// The port says it is busy; only of a frame that is sent.
    Busy,
    Lost,
}

/// Decides that for each frame: which side sends or receives it, and which of the two it is (sent: true).
pub type Fates = Box<dyn FnMut(usize, bool) -> Fate>;

/// Both directions.
pub struct Net {
    random: Random,
    trace: Tracer,
    pub now: Nanos,
    pub faults: NetFaults,
    /// Nothing passes, either way.
    pub cut: bool,
    /// Nothing that this side sends passes.
    pub cut_from: [bool; 2],
    /// What is sent to this side waits until then, and comes all at once.
    pub clogged: [u64; 2],
    /// Larger datagrams vanish.
    pub passes_max: usize,
    /// All takes so many times as long.
    pub slowness: u64,
    /// Before it is sealed: what a peer would say that is not what it should be. One that is made empty is lost.
    pub tamper: Option<Tamper>,
    /// On its way, sealed as it is.
    pub meddle: Option<Tamper>,
    pub seals: Seals,
    pub fates: Option<Fates>,
    pub effects: Effects,
    next: u64,
    arriving: [BTreeMap<(u64, u64), Sent>; 2],
    newest: [u64; 2],
    counters: [PortCounters; 2],
    /// When the bottleneck has passed all that waits before it, by receiving side.
    free_at: [u64; 2],
    /// Frames that found its queue full.
    pub overflowed: u64,
    old: VecDeque<Sent>,
}

impl Net {
    pub fn new(random: Random, faults: NetFaults, trace: Tracer) -> Rc<RefCell<Net>> {
        Rc::new(RefCell::new(Net {
            random,
            trace,
            now: Nanos::ZERO,
            faults,
            cut: false,
            cut_from: [false; 2],
            clogged: [0; 2],
            passes_max: usize::MAX,
            slowness: 1,
            tamper: None,
            meddle: None,
            seals: Seals::default(),
            fates: None,
            effects: Effects::default(),
            next: 0,
            arriving: Default::default(),
            newest: [0; 2],
            counters: Default::default(),
            free_at: [0; 2],
            overflowed: 0,
            old: VecDeque::new(),
        }))
    }

    /// A cable as it should be. What is on its way stays on its way.
    pub fn heal(&mut self) {
        self.faults = NetFaults::NONE;
        self.cut = false;
        self.cut_from = [false; 2];
        self.clogged = [0; 2];
        self.passes_max = usize::MAX;
        self.slowness = 1;
    }

    /// When the next frame arrives at a side.
    pub fn next_arrival(&self, side: usize) -> Option<u64> {
        self.arriving[side].first_key_value().map(|(key, _)| key.0)
    }

    /// A datagram of somebody else comes to a side.
    pub fn intrude(&mut self, side: usize, bytes: Vec<u8>) {
        self.carry(Sent { bytes, made: None }, side);
    }

    /// Drops what is on its way.
    pub fn forget(&mut self) {
        self.arriving.iter_mut().for_each(BTreeMap::clear);
    }

    /// Somebody else sends a node a frame.
    pub fn inject(&mut self, to: usize, bytes: Vec<u8>) {
        self.carry(Sent { bytes, made: None }, to);
    }

    /// Frames that reach a node that is down.
    pub fn drop_arrived(&mut self, side: usize) {
        let now = self.now.get();
        while self.arriving[side].first_key_value().is_some_and(|(key, _)| key.0 <= now) {
            self.arriving[side].pop_first();
        }
    }

    /// Whether the port takes a frame now; if so it is as good as sent.
    fn accepts(&mut self, side: usize) -> Result<Fate, PortBusy> {
        if self.effects.is_dead(side) {
            return Ok(Fate::Lost);
        }
        if self.random.chance(self.faults.busy) {
            self.trace.fault(Place::node(side), Fault::NetBusy, 0);
            return Err(PortBusy);
        }
        let fate = self.fates.as_mut().map_or(Fate::Passes, |fates| fates(side, true));
        if fate == Fate::Busy { Err(PortBusy) } else { Ok(fate) }
    }

    fn send(&mut self, side: usize, class: Class, fate: Fate, sent: Sent) {
        if self.effects.is_dead(side) {
            return;
        }
        self.effects.mark(side, Effect::Sent);
        let bytes = sent.bytes.len();
        let counters = &mut self.counters[side];
        counters.tx_frames += 1;
        counters.tx_bytes[class as usize] += (bytes + OVERHEAD) as u64;
        if self.faults.replay > 0 && self.random.chance(30) {
            if self.old.len() == OLD_FRAMES {
                let at = self.random.below(OLD_FRAMES as u64) as usize;
                self.old.swap_remove_back(at);
            }
            self.old.push_back(sent.clone());
        }
        if self.random.chance(self.faults.replay) && !self.old.is_empty() {
            let at = self.random.below(self.old.len() as u64) as usize;
            let old = self.old[at].clone();
            self.trace.fault(Place::Link, Fault::NetReplay, old.bytes.len() as u64);
            let to = old.made.map_or(1 - side, |made| 1 - made.by);
            self.carry(old, to);
        }
        let lost = fate == Fate::Lost;
        if lost || self.cut || self.cut_from[side] || bytes > self.passes_max {
            return;
        }
        if self.random.chance(self.faults.loss) {
            self.trace.fault(Place::Link, Fault::NetLoss, bytes as u64);
            return;
        }
        let mut copies = 1;
        if self.random.chance(self.faults.double) {
            self.trace.fault(Place::Link, Fault::NetDouble, bytes as u64);
            copies = 2;
        }
        if self.random.chance(self.faults.reflect) {
            self.trace.fault(Place::Link, Fault::NetReflected, bytes as u64);
            self.carry(sent.clone(), side);
        }
        for _ in 0..copies {
            let mut sent = sent.clone();
            if let Some((harm, word)) = self.harm() {
                let whole = sent.bytes.clone();
                corrupt(&mut sent.bytes, harm, word);
                // Some harm changes nothing.
                sent.made = sent.made.filter(|_| sent.bytes == whole);
            }
            self.carry(sent, 1 - side);
        }
    }

    /// What befalls a frame's bytes.
    fn harm(&mut self) -> Option<(Fault, u64)> {
        let faults = self.faults;
        let kinds = [
            (faults.corrupt, Fault::NetBit),
            (faults.burst, Fault::NetBurst),
            (faults.truncate, Fault::NetTruncated),
            (faults.extend, Fault::NetExtended),
            (faults.header, Fault::NetHeader),
        ];
        for (chance, kind) in kinds {
            if chance > 0 && self.random.chance(chance) {
                self.trace.fault(Place::Link, kind, 0);
                return Some((kind, self.random.word()));
            }
        }
        None
    }

    fn carry(&mut self, sent: Sent, to: usize) {
        let Some(passed) = self.squeeze(sent.bytes.len(), to) else { return };
        let mut at = passed + self.slowness * self.random.between(self.faults.delay);
        if self.random.chance(self.faults.reorder) {
            self.trace.fault(Place::Link, Fault::NetReorder, 0);
            at += match self.faults.late {
                (0, 0) => 4 * self.random.between(self.faults.delay),
                late => self.random.between(late),
            };
        } else {
            at = at.max(self.newest[to]);
            self.newest[to] = at;
        }
        at = at.max(self.clogged[to]);
        self.next += 1;
        self.arriving[to].insert((at, self.next), sent);
    }

    /// When a frame has passed the bottleneck; `None` where it finds the queue full.
    fn squeeze(&mut self, bytes: usize, to: usize) -> Option<u64> {
        let now = self.now.get();
        let Some((rate, queue)) = self.faults.bottleneck else { return Some(now) };
        let takes = |bytes: u64| bytes * 1_000_000_000 / rate;
        let free_at = &mut self.free_at[to];
        if free_at.saturating_sub(now) > takes(queue) {
            self.overflowed += 1;
            return None;
        }
        *free_at = now.max(*free_at) + takes((bytes + OVERHEAD) as u64);
        Some(*free_at)
    }

    fn arrive(&mut self, side: usize) -> Option<Sent> {
        if self.effects.is_dead(side) {
            return None;
        }
        let (&key, _) = self.arriving[side].first_key_value()?;
        if key.0 > self.now.get() {
            return None;
        }
        let (_, mut sent) = self.arriving[side].pop_first()?;
        self.effects.mark(side, Effect::Received);
        if self.fates.as_mut().is_some_and(|fates| fates(side, false) == Fate::Lost) {
            // As an interface drops what it can't read.
            return self.arrive(side);
        }
        if let Some(meddle) = &mut self.meddle {
            let whole = sent.bytes.clone();
            meddle(side, &mut sent.bytes);
            sent.made = sent.made.filter(|_| sent.bytes == whole);
        }
        let bytes = &sent.bytes;
        self.counters[side].rx_frames += 1;
        self.counters[side].rx_bytes += (bytes.len() + OVERHEAD) as u64;
        self.trace.mix(5 << 56 | (side as u64) << 48 | bytes.len() as u64);
        // A frame's kind is its fourth byte: hello and answer are worth a line.
        match bytes.get(3) {
            Some(2) => self.trace.event(side, Event::Hello, 0),
            Some(3) => {
                self.trace.event(side, Event::Answer, 0);
                if let Some(event) = self.seals.verdict(bytes) {
                    self.trace.event(side, event, 0);
                }
            }
            _ => {}
        }
        Some(sent)
    }
}

/// One end of the cable.
pub struct MemPort {
    pub net: Rc<RefCell<Net>>,
    pub side: usize,
    pub arena: Arc<Arena>,
    pub mtu: usize,
}

impl Port for MemPort {
    fn datagram_bytes_max(&self) -> usize {
        self.mtu - 28
    }
    fn overhead_bytes(&self) -> usize {
        OVERHEAD
    }
    fn send(
        &mut self,
        class: Class,
        head: &[u8],
        spans: &[Span],
        seal: Option<Seal<'_>>,
    ) -> Result<(), PortBusy> {
        let bytes = head.len() + spans.iter().map(|span| span.len as usize).sum::<usize>();
        assert!(bytes <= self.datagram_bytes_max(), "a datagram of {bytes} bytes does not fit");
        let (side, to) = (self.side, 1 - self.side);
        let (fate, mut whole) = guard::world(|| {
            let mut net = self.net.borrow_mut();
            let mut fate = net.accepts(side)?;
            let mut whole = head.to_vec();
            for span in spans {
                whole.extend_from_slice(&self.arena.bytes(*span));
                net.counters[side].tx_copied_bytes += u64::from(span.len);
            }
            if let Some(tamper) = &mut net.tamper {
                tamper(to, &mut whole);
            }
            if whole.is_empty() {
                fate = Fate::Lost;
                whole = head.to_vec();
            }
            Ok((fate, whole))
        })?;
        let plain = guard::world(|| whole.clone());
        let sealed = seal.map(|seal| seal(&mut whole)).is_some();
        guard::world(|| {
            let mut net = self.net.borrow_mut();
            let now = net.now;
            let made = net.seals.sent(side, now, sealed.then_some(&plain), &whole);
            net.send(side, class, fate, Sent { bytes: whole, made });
        });
        Ok(())
    }
    fn flush(&mut self) {}
    fn receive(&mut self, frames_max: usize, sink: &mut dyn FnMut(&mut [u8])) -> usize {
        for count in 0..frames_max {
            let arrived = guard::world(|| self.net.borrow_mut().arrive(self.side));
            let Some(Sent { mut bytes, made }) = arrived else { return count };
            sink(&mut bytes);
            guard::world(|| self.net.borrow_mut().seals.shown(self.side, made, &bytes));
        }
        frames_max
    }
    fn counters(&self) -> PortCounters {
        self.net.borrow().counters[self.side]
    }
}
