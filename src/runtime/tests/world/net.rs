//! The cable: two ports in memory that lose, double, delay, reorder and corrupt frames, and are busy now and then.
//! A device may read a frame's payload long after `send` (zero copy): some frames are put together only when they arrive.

use super::guard;
use super::random::Random;
use ibid_driver::{Arena, Class, Port, PortBusy, PortCounters};
use ibid_units::{Nanos, Span};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Ethernet, IPv4 and UDP headers.
const OVERHEAD: usize = 42;

/// How bad the cable is; chances of a thousand.
#[derive(Clone, Copy, Debug)]
pub struct NetFaults {
    pub loss: u32,
    pub double: u32,
    pub reorder: u32,
    pub corrupt: u32,
    pub busy: u32,
    /// Payload is read from the arena when the frame arrives, not when it is sent.
    pub late_read: u32,
    /// Nanoseconds.
    pub delay: (u64, u64),
}

impl NetFaults {
    pub const NONE: NetFaults = NetFaults {
        loss: 0,
        double: 0,
        reorder: 0,
        corrupt: 0,
        busy: 0,
        late_read: 0,
        delay: (2_000, 10_000),
    };
}

#[derive(Clone)]
struct Sent {
    head: Vec<u8>,
    spans: Vec<Span>,
    arena: Arc<Arena>,
    flip: Option<u64>,
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let mut out = self.head.clone();
        for span in &self.spans {
            out.extend_from_slice(&self.arena.bytes(*span));
        }
        if let Some(flip) = self.flip {
            let bit = flip as usize % (out.len() * 8);
            out[bit / 8] ^= 1 << (bit % 8);
        }
        out
    }
}

/// Changes a datagram on its way to a side.
pub type Tamper = Box<dyn FnMut(usize, &mut Vec<u8>)>;

/// Both directions.
pub struct Net {
    random: Random,
    pub now: Nanos,
    pub faults: NetFaults,
    pub cut: bool,
    pub tamper: Option<Tamper>,
    next: u64,
    arriving: [BTreeMap<(u64, u64), Sent>; 2],
    newest: [u64; 2],
    counters: [PortCounters; 2],
}

impl Net {
    pub fn new(random: Random, faults: NetFaults) -> Rc<RefCell<Net>> {
        Rc::new(RefCell::new(Net {
            random,
            now: Nanos::ZERO,
            faults,
            cut: false,
            tamper: None,
            next: 0,
            arriving: Default::default(),
            newest: [0; 2],
            counters: Default::default(),
        }))
    }

    /// When the next frame arrives anywhere.
    pub fn next_arrival(&self) -> Option<u64> {
        self.arriving.iter().filter_map(|side| side.keys().next().map(|key| key.0)).min()
    }

    fn send(&mut self, side: usize, class: Class, sent: Sent) -> Result<(), PortBusy> {
        if self.random.chance(self.faults.busy) {
            return Err(PortBusy);
        }
        let bytes =
            sent.head.len() + sent.spans.iter().map(|span| span.len as usize).sum::<usize>();
        let counters = &mut self.counters[side];
        counters.tx_frames += 1;
        counters.tx_bytes[class as usize] += (bytes + OVERHEAD) as u64;
        if self.cut || self.random.chance(self.faults.loss) {
            return Ok(());
        }
        let copies = 1 + u32::from(self.random.chance(self.faults.double));
        for _ in 0..copies {
            let mut sent = sent.clone();
            if self.random.chance(self.faults.corrupt) {
                sent.flip = Some(self.random.next());
            }
            if !self.random.chance(self.faults.late_read) {
                sent =
                    Sent { head: sent.bytes(), spans: Vec::new(), flip: None, arena: sent.arena };
            }
            let mut at = self.now.get() + self.random.between(self.faults.delay);
            if self.random.chance(self.faults.reorder) {
                at += 4 * self.random.between(self.faults.delay);
            } else {
                at = at.max(self.newest[1 - side]);
                self.newest[1 - side] = at;
            }
            self.next += 1;
            self.arriving[1 - side].insert((at, self.next), sent);
        }
        Ok(())
    }

    fn arrive(&mut self, side: usize) -> Option<Vec<u8>> {
        let (&key, _) = self.arriving[side].iter().next()?;
        if key.0 > self.now.get() {
            return None;
        }
        let mut bytes = self.arriving[side].remove(&key)?.bytes();
        if let Some(tamper) = &mut self.tamper {
            tamper(side, &mut bytes);
        }
        self.counters[side].rx_frames += 1;
        self.counters[side].rx_bytes += (bytes.len() + OVERHEAD) as u64;
        Some(bytes)
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
    fn send(&mut self, class: Class, head: &[u8], spans: &[Span]) -> Result<(), PortBusy> {
        let bytes = head.len() + spans.iter().map(|span| span.len as usize).sum::<usize>();
        assert!(bytes <= self.datagram_bytes_max(), "a datagram of {bytes} bytes does not fit");
        guard::world(|| {
            let sent = Sent {
                head: head.to_vec(),
                spans: spans.to_vec(),
                arena: self.arena.clone(),
                flip: None,
            };
            self.net.borrow_mut().send(self.side, class, sent)
        })
    }
    fn flush(&mut self) {}
    fn receive(&mut self, frames_max: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        for count in 0..frames_max {
            let Some(bytes) = guard::world(|| self.net.borrow_mut().arrive(self.side)) else {
                return count;
            };
            sink(&bytes);
        }
        frames_max
    }
    fn counters(&self) -> PortCounters {
        self.net.borrow().counters[self.side]
    }
}
