//! Compare and Write: a pair of commands that is one. The write is logged if the compare finds no difference, and nothing comes in between.
//! Takes writes whose data is there; gives them to the log in their turn.
//! FUSE-1  from the instant at which a pair's compare is decided until its write is committed, or will never be logged, no other write of its
//!         range is given to the log.
//! FUSE-2  a pair's compare is decided only when every entry of its range that was given to the log is committed: it sees all writes that
//!         come before its own in the log's order, on both nodes.
//! FUSE-3  a pair's write is given to the log only after its compare found no difference, and not where its host is gone by then.
//!
//! Pairs, and the writes that they keep out, have their turn in the order in which their data was complete. What waits has no Lsn, so
//! that it can be ended without effect; the log never waits for it, for its bytes leave their segment like other late data. A pair is one
//! entry in the log: a crash leaves all of it or nothing.

use super::Core;
use super::clients::NONE;
use super::compare::Progress;
use super::writes::{WriteSlot, WriteState};
use ibid_driver::Disk;
use ibid_units::{Lsn, Mutant, Nanos, Sector, Sectors, VolumeId};
use ibid_wire::nvme_tcp::Status;
use std::collections::VecDeque;

/// Pairs that have their turn, or wait for others of these. More wait behind them.
const PAIRS_MAX: usize = 64;

/// Where a command reads or writes.
#[derive(Clone, Copy, Debug)]
struct Run {
    volume: VolumeId,
    first: Sector,
    sectors: Sectors,
}

impl Run {
    const fn of(slot: &WriteSlot) -> Run {
        Run { volume: slot.volume, first: slot.first, sectors: slot.sectors }
    }
    fn overlaps(&self, other: &Run) -> bool {
        self.volume == other.volume
            && self.first < other.first + other.sectors
            && other.first < self.first + self.sectors
    }
}

/// A pair.
#[derive(Clone, Copy, Debug)]
struct Pair {
    write: u32,
    ticket: u64,
    run: Run,
    /// The log must have committed so far before the compare can be decided.
    fence: Lsn,
    begun: bool,
}

/// A write that a pair keeps out.
#[derive(Clone, Copy, Debug)]
struct Barred {
    write: u32,
    ticket: u64,
    run: Run,
}

/// Pairs and what waits for them.
#[derive(Debug)]
pub(super) struct Fused {
    /// In the order of their tickets.
    pairs: Vec<Pair>,
    /// Writes of pairs that wait for a place among these.
    waiting: VecDeque<u32>,
    /// In the order of their tickets.
    barred: VecDeque<Barred>,
    ticket: u64,
    /// Something left `pairs` or `barred`.
    moved: bool,
}

impl Fused {
    pub(super) fn new(writes_max: usize) -> Self {
        Self {
            pairs: Vec::with_capacity(PAIRS_MAX),
            waiting: VecDeque::with_capacity(writes_max),
            barred: VecDeque::with_capacity(writes_max),
            ticket: 0,
            moved: false,
        }
    }

    /// Nothing waits here.
    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.barred.is_empty() && self.waiting.is_empty()
    }

    fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    /// Whether a pair that came before keeps this run out.
    fn bars(&self, run: &Run, ticket: u64) -> bool {
        !Mutant::FusedUnbarred.is_on()
            && self.pairs.iter().any(|pair| pair.ticket < ticket && pair.run.overlaps(run))
    }

    /// Whether a pair must wait for something that came before it.
    fn holds_back(&self, pair: &Pair) -> bool {
        self.bars(&pair.run, pair.ticket)
            || self
                .barred
                .iter()
                .take_while(|barred| barred.ticket < pair.ticket)
                .any(|barred| barred.run.overlaps(&pair.run))
    }

    /// A write has ended in this state.
    pub(super) fn forget(&mut self, write: u32, state: WriteState) {
        if state == WriteState::Barred {
            self.barred.retain(|barred| barred.write != write);
            self.moved = true;
            return;
        }
        if state == WriteState::Paired {
            self.waiting.retain(|waiting| *waiting != write);
        }
        if let Some(at) = self.pairs.iter().position(|pair| pair.write == write) {
            self.pairs.remove(at);
            self.moved = true;
        }
    }
}

impl<D: Disk> Core<D> {
    /// The two commands of a pair know of each other from now on.
    pub(super) fn fuse(&mut self, write: u32, compare: u32) {
        self.writes.get_mut(write).compare = compare;
        self.reads.get_mut(compare).compare.write = write;
    }

    /// A pair whose data is all there waits for its turn.
    pub(super) fn try_pair(&mut self, write: u32) {
        let WriteSlot { state, compare, .. } = *self.writes.get(write);
        let ready = state == WriteState::Paired
            && compare != NONE
            && self.reads.get(compare).compare.progress == Progress::Held;
        if ready {
            self.fused.waiting.push_back(write);
            self.admit_pairs();
        }
    }

    /// From here on later writes of their range are kept out.
    fn admit_pairs(&mut self) {
        while self.fused.pairs.len() < PAIRS_MAX
            && let Some(write) = self.fused.waiting.pop_front()
        {
            let ticket = self.fused.next_ticket();
            let run = Run::of(self.writes.get(write));
            self.fused.pairs.push(Pair { write, ticket, run, fence: Lsn::new(0), begun: false });
        }
    }

    /// Whether a write whose data is there must not be logged now; then it waits for its turn.
    pub(super) fn bar(&mut self, write: u32) -> bool {
        let slot = self.writes.get(write);
        // The write of a pair comes here when it is its turn.
        if self.fused.pairs.is_empty() || slot.compare != NONE {
            return false;
        }
        let run = Run::of(slot);
        if !self.fused.bars(&run, u64::MAX) {
            return false;
        }
        let ticket = self.fused.next_ticket();
        self.fused.barred.push_back(Barred { write, ticket, run });
        self.writes.get_mut(write).state = WriteState::Barred;
        true
    }

    /// Lets go on what can.
    pub(super) fn fused_turn(&mut self, now: Nanos) -> bool {
        let mut any = self.retry_compares(now);
        if self.fused.is_empty() {
            return any;
        }
        if std::mem::take(&mut self.fused.moved) {
            any |= self.let_in(now);
        }
        self.admit_pairs();
        let mut at = 0;
        while let Some(pair) = self.fused.pairs.get(at).copied() {
            let seen = self.log.committed() >= pair.fence;
            if !pair.begun && seen && !self.fused.holds_back(&pair) {
                any |= self.begin_pair(now, at, pair);
            }
            // It may have ended.
            let stays = self.fused.pairs.get(at).is_some_and(|now| now.ticket == pair.ticket);
            at += usize::from(stays);
        }
        any
    }

    /// Writes that no pair keeps out any more.
    fn let_in(&mut self, now: Nanos) -> bool {
        let mut any = false;
        for _ in 0..self.fused.barred.len() {
            let Some(barred) = self.fused.barred.pop_front() else { break };
            if self.fused.bars(&barred.run, barred.ticket) {
                self.fused.barred.push_back(barred);
            } else {
                any = true;
                self.log_in_turn(now, barred.write);
            }
        }
        any
    }

    /// Decides about a pair, if all that comes before it can be seen (FUSE-2).
    fn begin_pair(&mut self, now: Nanos, at: usize, pair: Pair) -> bool {
        let Run { volume, first, sectors } = pair.run;
        let fence = self.log.committed_for(volume, first, sectors);
        if let Some(fence) = fence.filter(|_| !Mutant::FusedOvertakes.is_on()) {
            self.fused.pairs[at].fence = fence;
            return false;
        }
        let compare = self.writes.get(pair.write).compare;
        self.fused.pairs[at].begun = true;
        self.reads.get_mut(compare).compare.progress = Progress::Begun;
        if self.begin_read(now, compare) {
            return true;
        }
        self.fused.pairs[at].begun = false;
        self.reads.get_mut(compare).compare.progress = Progress::Held;
        false
    }

    /// The compare of a pair found no difference: its write is logged.
    pub(super) fn log_fused(&mut self, now: Nanos, write: u32) {
        let slot = *self.writes.get(write);
        assert!(
            self.reads.get(slot.compare).compare.progress == Progress::Equal,
            "FUSE-3: a pair's write is logged after its compare"
        );
        assert!(
            Mutant::FusedOvertakes.is_on()
                || Mutant::FusedUnbarred.is_on()
                || self.log.committed_for(slot.volume, slot.first, slot.sectors).is_none(),
            "FUSE-1: nothing of a pair's range is logged between its compare and its write"
        );
        self.log_in_turn(now, write);
    }

    /// Gives a write whose data is there to the log, from its segment or from beside the log.
    fn log_in_turn(&mut self, now: Nanos, write: u32) {
        if self.writes.get(write).placement.is_some() {
            self.log_now(now, write);
        } else {
            self.writes.get_mut(write).state = WriteState::Late;
            self.late.push_back(write);
        }
    }

    /// The compare of a pair has failed: its write has no effect.
    pub(super) fn fail_fused(&mut self, now: Nanos, compare: u32) {
        let write = self.reads.get(compare).compare.write;
        if write != NONE {
            self.sever(write);
            self.end_unlogged(now, write, Status::ABORTED_FAILED_FUSED);
        }
    }

    /// A write no longer knows of the compare that it is fused with, nor that of it.
    pub(super) fn sever(&mut self, write: u32) {
        let compare = std::mem::replace(&mut self.writes.get_mut(write).compare, NONE);
        if compare != NONE {
            self.reads.get_mut(compare).compare.write = NONE;
        }
    }

    /// The host of a pair is gone: what is not in the log has no effect (I16).
    pub(super) fn abandon_fused(&mut self, now: Nanos, compare: u32) {
        let write = self.reads.get(compare).compare.write;
        if write != NONE
            && let Some(cmd) = self.writes.get(write).cmd
        {
            self.abandon_write(now, cmd, write);
        }
    }

    /// The write of a pair ends, in the log or not. Its compare has an answer of its own (NVM 2.1.4): what it has found, or will.
    pub(super) fn release_compare(&mut self, now: Nanos, write: u32) {
        let compare = self.writes.get(write).compare;
        if compare == NONE {
            return;
        }
        self.sever(write);
        if self.reads.get(compare).compare.progress == Progress::Equal {
            self.end_compare(now, compare, Status::SUCCESS);
        } else {
            self.part(now, compare);
        }
    }

    /// The write of a pair was refused before it was known: the compare is one by itself.
    pub(super) fn part(&mut self, now: Nanos, compare: u32) {
        let slot = &mut self.reads.get_mut(compare).compare;
        slot.fused = false;
        if slot.progress == Progress::Held {
            self.begin_compare(now, compare);
        }
    }

    /// A write that has no Lsn ends without effect, as the second of its pair if it is one.
    pub(super) fn end_fused(&mut self, now: Nanos, write: u32, status: Status) {
        self.release_compare(now, write);
        self.end_unlogged(now, write, status);
    }

    /// Ends what waits here: nothing becomes durable any more.
    pub(super) fn fail_fused_waiting(&mut self, now: Nanos) {
        while let Some(barred) = self.fused.barred.pop_front() {
            self.end_unlogged(now, barred.write, Status::ANA_INACCESSIBLE);
        }
        for at in (0..self.fused.pairs.len()).rev() {
            let write = self.fused.pairs[at].write;
            if self.writes.get(write).state == WriteState::Paired {
                self.end_fused(now, write, Status::ANA_INACCESSIBLE);
            }
        }
        while let Some(write) = self.fused.waiting.pop_front() {
            self.end_fused(now, write, Status::ANA_INACCESSIBLE);
        }
    }
}
