//! A bad cable as a [`Port`] in front of another: loses, delays, doubles, reorders and corrupts datagrams by chance from a seed, has a
//! bottleneck, and goes dark for a time. For tests of the link above it, in one process or between two; nothing in production.
//! Takes a port, a clock and [`LinkFaults`]; both directions suffer alike. Takes all its memory at construction: a frame that is not
//! chosen for anything passes without a copy, one that is waits in one of [`HELD_MAX`] places, and is lost where none is free.
//!
//! What happens to a datagram happens above the port's own headers and checksums: a corrupted one reaches the peer's link as the
//! port's checksums could not find it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ibid_units::{Nanos, Span};

use crate::{Arena, Class, Clock, Port, PortBusy, PortCounters, Seal};

/// Chances, in millionths.
pub const CERTAIN: u32 = 1_000_000;
/// Datagrams that are under way in one direction, at most.
pub const HELD_MAX: usize = 2048;
/// How much later than the others a datagram comes that is reordered, or the second of two: from, to.
const LATE: (Nanos, Nanos) = (Nanos::from_micros(20), Nanos::from_millis(1));
/// Bytes changed in a corrupted datagram, at most; one in so many of them is cut short instead.
const CORRUPTED_BYTES_MAX: u64 = 4;
const CUT_ONE_IN: u64 = 8;

/// How bad the cable is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkFaults {
    /// Chance of a datagram to be lost, in millionths.
    pub drop: u32,
    /// Chance to arrive twice.
    pub duplicate: u32,
    /// Chance to come up to a millisecond later than those behind it.
    pub reorder: u32,
    /// Chance to arrive with other bytes, or fewer.
    pub corrupt: u32,
    /// Time that each datagram takes, one way.
    pub delay: Nanos,
    /// A bottleneck: bytes of whole frames in a second, each way.
    pub bottleneck: Option<Bottleneck>,
    /// A time in which nothing passes.
    pub blackout: Option<Blackout>,
    /// The same seed and the same traffic give the same faults.
    pub seed: u64,
}

/// The narrowest place of the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bottleneck {
    /// Bytes of whole frames that pass in a second; more than 0.
    pub rate: u64,
    /// Bytes that wait before it at most; what comes on top is lost.
    pub queue: u64,
}

/// A time in which nothing passes, counted from the construction of the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blackout {
    /// When it begins.
    pub from: Nanos,
    /// How long it lasts.
    pub length: Nanos,
}

/// What was done to datagrams so far, both ways. May be read on any thread.
#[derive(Debug, Default)]
pub struct LinkFaultCounts {
    dropped: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
    corrupted: AtomicU64,
    overflowed: AtomicU64,
    blacked_out: AtomicU64,
}

impl LinkFaultCounts {
    /// Lost by chance.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
    /// Sent or shown twice.
    pub fn duplicated(&self) -> u64 {
        self.duplicated.load(Ordering::Relaxed)
    }
    /// Held back behind later ones.
    pub fn reordered(&self) -> u64 {
        self.reordered.load(Ordering::Relaxed)
    }
    /// Changed or cut.
    pub fn corrupted(&self) -> u64 {
        self.corrupted.load(Ordering::Relaxed)
    }
    /// Lost because the queue before the bottleneck, or every place for one under way, was full.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }
    /// Lost in the blackout.
    pub fn blacked_out(&self) -> u64 {
        self.blacked_out.load(Ordering::Relaxed)
    }
}

/// Counts one. There is one writer, the port's thread.
fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A port behind a bad cable.
pub struct FaultyPort<P: Port, C: Clock> {
    inner: P,
    clock: C,
    /// Payload that must be copied lies here.
    arena: Arc<Arena>,
    began: Nanos,
    out: Direction,
    into: Direction,
}

impl<P: Port, C: Clock> FaultyPort<P, C> {
    /// Puts the cable in front of `inner`, whose spans lie in `arena`, and counts in `counts`. A blackout's time begins now.
    pub fn new(
        inner: P,
        arena: Arc<Arena>,
        faults: LinkFaults,
        counts: &Arc<LinkFaultCounts>,
        mut clock: C,
    ) -> Self {
        let began = clock.now();
        let mut random = Random(faults.seed);
        let (bytes_max, overhead) = (inner.datagram_bytes_max(), inner.overhead_bytes());
        let mut direction =
            || Direction::new(faults, counts.clone(), Random(random.word()), bytes_max, overhead);
        let (out, into) = (direction(), direction());
        Self { inner, clock, arena, began, out, into }
    }

    /// Gives to the port what has been on its way for long enough, as far as the port takes it.
    fn release(&mut self, now: Nanos) {
        while let Some(place) = self.out.due(now, self.began) {
            let Held { class, len, .. } = self.out.notes[place];
            let datagram = &self.out.bytes[place * self.out.bytes_max..][..len];
            if self.inner.send(class, datagram, &[], None).is_err() {
                return;
            }
            self.out.take();
        }
    }
}

impl<P: Port, C: Clock> Port for FaultyPort<P, C> {
    fn datagram_bytes_max(&self) -> usize {
        self.inner.datagram_bytes_max()
    }

    fn overhead_bytes(&self) -> usize {
        self.inner.overhead_bytes()
    }

    /// A datagram that is lost at once is not shown to the seal: nobody will see it.
    fn send(
        &mut self,
        class: Class,
        head: &[u8],
        spans: &[Span],
        mut seal: Option<Seal<'_>>,
    ) -> Result<(), PortBusy> {
        let now = self.clock.now();
        let payload: usize = spans.iter().map(|span| span.len as usize).sum();
        let len = head.len() + payload;
        assert!(len <= self.out.bytes_max, "a datagram is larger than a frame");
        let arena = &self.arena;
        let fill = |whole: &mut [u8]| {
            let (to, mut body) = whole.split_at_mut(head.len());
            to.copy_from_slice(head);
            for span in spans {
                let (to, after) = body.split_at_mut(span.len as usize);
                arena.copy_out(span.at, to);
                body = after;
            }
            if let Some(seal) = &mut seal {
                seal(whole);
            }
        };
        match self.out.meet(now, self.began, class, len, fill) {
            Fate::Passes => self.inner.send(class, head, spans, seal),
            Fate::Gone => Ok(()),
        }
    }

    fn flush(&mut self) {
        let now = self.clock.now();
        self.release(now);
        self.inner.flush();
    }

    fn receive(&mut self, frames_max: usize, sink: &mut dyn FnMut(&mut [u8])) -> usize {
        let now = self.clock.now();
        self.release(now);
        let mut shown = 0;
        while shown < frames_max
            && let Some(place) = self.into.due(now, self.began)
        {
            let len = self.into.notes[place].len;
            sink(&mut self.into.bytes[place * self.into.bytes_max..][..len]);
            self.into.take();
            shown += 1;
        }
        let (into, began) = (&mut self.into, self.began);
        // Which class a received datagram has is not known here, and not asked.
        self.inner.receive(frames_max - shown, &mut |datagram| {
            let fill = |to: &mut [u8]| to.copy_from_slice(datagram);
            match into.meet(now, began, Class::Control, datagram.len(), fill) {
                Fate::Passes => {
                    sink(datagram);
                    shown += 1;
                }
                Fate::Gone => {}
            }
        });
        shown
    }

    fn counters(&self) -> PortCounters {
        self.inner.counters()
    }
}

/// What becomes of a datagram at once.
enum Fate {
    Passes,
    /// Lost, or held for later.
    Gone,
}

/// A datagram on its way.
#[derive(Clone, Copy)]
struct Held {
    class: Class,
    len: usize,
}

/// One way of the cable.
struct Direction {
    faults: LinkFaults,
    counts: Arc<LinkFaultCounts>,
    random: Random,
    bytes_max: usize,
    overhead: usize,
    /// When the bottleneck has passed all that waits before it.
    free_at: Nanos,
    /// What is on its way: when it arrives, in which order it came, where it lies.
    order: BinaryHeap<Reverse<(Nanos, u64, usize)>>,
    came: u64,
    notes: Box<[Held]>,
    bytes: Box<[u8]>,
    free: Vec<usize>,
}

impl Direction {
    fn new(
        faults: LinkFaults,
        counts: Arc<LinkFaultCounts>,
        random: Random,
        bytes_max: usize,
        overhead: usize,
    ) -> Self {
        Self {
            faults,
            counts,
            random,
            bytes_max,
            overhead,
            free_at: Nanos::ZERO,
            order: BinaryHeap::with_capacity(HELD_MAX),
            came: 0,
            notes: vec![Held { class: Class::Control, len: 0 }; HELD_MAX].into(),
            bytes: vec![0; HELD_MAX * bytes_max].into(),
            free: (0..HELD_MAX).collect(),
        }
    }

    /// Decides about a datagram that comes now. `fill` writes its bytes where it has to be held.
    fn meet(
        &mut self,
        now: Nanos,
        began: Nanos,
        class: Class,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Fate {
        let faults = self.faults;
        if self.is_dark(now, began) {
            count(&self.counts.blacked_out);
            return Fate::Gone;
        }
        if self.random.chance(faults.drop) {
            count(&self.counts.dropped);
            return Fate::Gone;
        }
        let mut at = now;
        if let Some(bottleneck) = faults.bottleneck {
            let takes =
                |bytes: u64| Nanos::new(bytes.saturating_mul(1_000_000_000) / bottleneck.rate);
            if self.free_at.since(now) > takes(bottleneck.queue) {
                count(&self.counts.overflowed);
                return Fate::Gone;
            }
            self.free_at = self.free_at.max(now).after(takes((len + self.overhead) as u64));
            at = self.free_at;
        }
        let at = at.after(faults.delay);
        let duplicate = self.random.chance(faults.duplicate);
        let reorder = self.random.chance(faults.reorder);
        let corrupt = self.random.chance(faults.corrupt);
        if at == now && !duplicate && !reorder && !corrupt {
            return Fate::Passes;
        }
        let due = if reorder { at.after(self.random.late()) } else { at };
        let Some(place) = self.hold(due, class, len) else { return Fate::Gone };
        let from = place * self.bytes_max;
        fill(&mut self.bytes[from..][..len]);
        if reorder {
            count(&self.counts.reordered);
        }
        if duplicate {
            let due = at.after(self.random.late());
            if let Some(second) = self.hold(due, class, len) {
                self.bytes.copy_within(from..from + len, second * self.bytes_max);
                count(&self.counts.duplicated);
            }
        }
        if corrupt {
            self.corrupt(place);
        }
        Fate::Gone
    }

    fn is_dark(&self, now: Nanos, began: Nanos) -> bool {
        self.faults.blackout.is_some_and(|blackout| {
            let from = began.after(blackout.from);
            (from..from.after(blackout.length)).contains(&now)
        })
    }

    /// Takes a place for a datagram until it is due; `None` where none is free, and the datagram is lost.
    fn hold(&mut self, due: Nanos, class: Class, len: usize) -> Option<usize> {
        let Some(place) = self.free.pop() else {
            count(&self.counts.overflowed);
            return None;
        };
        self.notes[place] = Held { class, len };
        self.order.push(Reverse((due, self.came, place)));
        self.came += 1;
        Some(place)
    }

    fn corrupt(&mut self, place: usize) {
        let len = self.notes[place].len;
        if len == 0 {
            return;
        }
        count(&self.counts.corrupted);
        if self.random.below(CUT_ONE_IN) == 0 {
            self.notes[place].len = self.random.below(len as u64) as usize;
            return;
        }
        for _ in 0..=self.random.below(CORRUPTED_BYTES_MAX) {
            let at = place * self.bytes_max + self.random.below(len as u64) as usize;
            self.bytes[at] ^= 1 + self.random.below(255) as u8;
        }
    }

    /// Where the datagram lies that is due first, if it is by now. In a blackout what is due is lost.
    fn due(&mut self, now: Nanos, began: Nanos) -> Option<usize> {
        // Bounded: every round but the last takes one of at most HELD_MAX.
        loop {
            let Reverse((due, _, place)) = *self.order.peek()?;
            if due > now {
                return None;
            }
            if !self.is_dark(now, began) {
                return Some(place);
            }
            count(&self.counts.blacked_out);
            self.take();
        }
    }

    /// Frees the place of the datagram that was due first.
    fn take(&mut self) {
        if let Some(Reverse((_, _, place))) = self.order.pop() {
            self.free.push(place);
        }
    }
}

/// Chance from a seed: splitmix64 (Steele and Lea).
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }
    fn chance(&mut self, millionths: u32) -> bool {
        millionths > 0 && self.below(CERTAIN.into()) < u64::from(millionths)
    }
    fn late(&mut self) -> Nanos {
        Nanos::new(LATE.0.get() + self.below(LATE.1.get() - LATE.0.get()))
    }
}

#[cfg(test)]
#[path = "faulty_tests.rs"]
mod tests;
