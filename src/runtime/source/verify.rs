//! `verify`: compares both copies of a volume while clients go on, chunk by chunk between two CPs, and repairs what is provably wrong.
//! Takes nothing from clients: a chunk is begun only where none of them waits for room, and at most every other turn of [`Between`].
//! VFY-1  a block differs only where both nodes read it at one and the same CP, and neither wrote it meanwhile.
//! VFY-2  a block is overwritten only where the other copy is proved: by the sum that was taken when a client's bytes came, or because this
//!        one can't be read; and only if the operator asked for repairs.
//! VFY-3  a block of the peer is repaired as what is out of sync is: a durable state that says so first, then the map, then a CP.
//! VFY-4  what was repaired is compared again before it is counted as repaired.

use super::Core;
use super::point::CpPhase;
use crate::disks::volume_file;
use crate::shard::Reply;
use crate::verify::{VerifyProgress, VerifyState};
use ibid_driver::{Disk, DiskOp};
use ibid_units::{BLOCK_BYTES, CpId, Nanos, VolumeId};
use ibid_wire::disk::SyncState;
use ibid_wire::peer::{AskWhat, SUMS_MAX};

/// A bit for each block of a chunk.
type Bits = [u64; SUMS_MAX as usize / 64];

fn bit(bits: &Bits, n: u32) -> bool {
    bits[n as usize / 64] >> (n % 64) & 1 == 1
}

fn set(bits: &mut Bits, n: u32) {
    bits[n as usize / 64] |= 1 << (n % 64);
}

fn next(bits: &Bits, from: u32) -> Option<u32> {
    (from..u32::from(SUMS_MAX)).find(|n| bit(bits, *n))
}

/// Blocks that were found to differ, and are to be compared once more after they were repaired.
#[derive(Clone, Copy, Debug)]
struct Window {
    first: u64,
    blocks: u32,
    /// All that differed.
    known: Bits,
    here: Bits,
    there: Bits,
    /// Everything was tried. A window that lost the peer before is judged anew.
    tried: bool,
}

/// Which copy of a block is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Here,
    There,
    /// Nobody knows.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Both copies are read.
    Read {
        /// Whether the read here has been started, and the question asked.
        began: bool,
        asked: bool,
        /// What came of them.
        own: Option<bool>,
        told: Option<bool>,
    },
    /// Block `n` comes from the peer …
    Fetch { n: u32 },
    /// … and is written here.
    Rewrite { n: u32 },
    /// What was written is flushed.
    Flush { began: bool },
    /// What is wrong at the peer goes into the map.
    Mark,
}

/// Blocks that are being compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    /// The comparison that it belongs to.
    number: u64,
    cp: CpId,
    first: u64,
    blocks: u32,
    began: Nanos,
    step: Step,
}

/// The comparison.
#[derive(Debug)]
pub(super) struct Verify {
    pub(super) progress: VerifyProgress,
    /// Counts comparisons.
    number: u64,
    began: Nanos,
    /// The next block to be compared.
    next: u64,
    /// Blocks before this one are compared one by one: a run with them could not be read.
    single_until: u64,
    window: Option<Window>,
    /// No chunk before then.
    at: Nanos,
}

impl Verify {
    pub(super) fn new() -> Self {
        Self {
            progress: VerifyProgress::with_room(),
            number: 0,
            began: Nanos::ZERO,
            next: 0,
            single_until: 0,
            window: None,
            at: Nanos::ZERO,
        }
    }
}

impl<D: Disk> Core<D> {
    pub(super) fn want_verify(
        &mut self,
        now: Nanos,
        volume: VolumeId,
        repair: bool,
        progress: Box<VerifyProgress>,
    ) -> Reply {
        let Some(sectors) = self.volume_sectors.get(usize::from(volume.get())) else {
            return Reply::NoSuchVolume;
        };
        let verify = &mut self.between.verify;
        if verify.progress.is_running() {
            return Reply::Verifying(verify.progress.volume);
        }
        // A volume is a whole number of blocks; what configuration does not let in is not compared.
        verify.progress.start(volume, sectors * 512 / BLOCK_BYTES, repair);
        verify.number += 1;
        verify.began = now;
        verify.next = 0;
        verify.single_until = 0;
        verify.window = None;
        verify.at = now;
        self.tell_verify(now, progress)
    }

    pub(super) fn tell_verify(&mut self, now: Nanos, mut progress: Box<VerifyProgress>) -> Reply {
        let verify = &mut self.between.verify;
        if verify.number == 0 {
            return Reply::NeverVerified;
        }
        if verify.progress.is_running() {
            verify.progress.took = now.since(verify.began);
        }
        progress.set_to(&verify.progress);
        Reply::Verify(progress)
    }

    pub(super) fn stop_verify(&mut self, now: Nanos) {
        self.end_verify(now, VerifyState::Interrupted);
    }

    fn end_verify(&mut self, now: Nanos, state: VerifyState) {
        let verify = &mut self.between.verify;
        if verify.progress.is_running() {
            verify.progress.state = state;
            verify.progress.took = now.since(verify.began);
        }
    }

    /// Ends a comparison that can't go on, or that is through.
    pub(super) fn verify_turn(&mut self, now: Nanos) {
        let verify = &self.between.verify;
        if !verify.progress.is_running() {
            return;
        }
        if self.stopping.is_some() || self.fault.is_some() || self.is_away(now) {
            self.end_verify(now, VerifyState::Interrupted);
        } else if verify.next == verify.progress.blocks && !self.between.is_busy() {
            self.end_verify(now, VerifyState::Done);
        }
    }

    /// Begins to compare the next blocks, where that keeps nobody waiting.
    pub(super) fn begin_chunk(&mut self, now: Nanos) -> bool {
        let verify = &self.between.verify;
        let clients_wait = self.log.is_full()
            || !self.waiting_writes.is_empty()
            || !self.large.is_quiet()
            || !self.waiting_reads.is_empty();
        if !verify.progress.is_running()
            || self.cp_phase != CpPhase::Idle
            || self.is_out_of_sync()
            || !self.map.is_empty()
            || !self.superblock.is_idle()
            || now < verify.at
            || clients_wait
        {
            return false;
        }
        let mut blocks =
            u64::from(self.between.chunk_max()).min(verify.progress.blocks - verify.next);
        if let Some(window) = &verify.window {
            blocks = blocks.min(window.first + u64::from(window.blocks) - verify.next);
        }
        if verify.next < verify.single_until {
            blocks = 1;
        }
        let (own, told) = (None, None);
        let number = verify.number;
        self.between.set_chunk(Chunk {
            number,
            cp: self.superblock.durable.cp,
            first: verify.next,
            blocks: blocks as u32,
            began: now,
            step: Step::Read { began: false, asked: false, own, told },
        });
        true
    }

    pub(super) fn chunk_step(&mut self, now: Nanos, mut chunk: Chunk) -> bool {
        assert!(
            self.cp_phase == CpPhase::Idle && chunk.cp == self.superblock.durable.cp,
            "VFY-1: a chunk is of one CP"
        );
        let verify = &self.between.verify;
        let volume = verify.progress.volume;
        if !verify.progress.is_running() || chunk.number != verify.number {
            // Its comparison was ended.
            self.between.end_task();
            return true;
        }
        match &mut chunk.step {
            Step::Read { began, asked, own, told } => {
                *own = own.or(self.between.take_own());
                *told = told.or(self.between.take_answer());
                match (*began, *asked, *own, *told) {
                    (false, ..) => {
                        *began = true;
                        let span = self.between.chunk_span(0, chunk.blocks);
                        let at = chunk.first * BLOCK_BYTES;
                        self.own_op(DiskOp::Read { file: volume_file(volume), at, span });
                        self.ask_sums(now, volume, &mut chunk);
                    }
                    (true, false, ..) => self.ask_sums(now, volume, &mut chunk),
                    (true, true, Some(own), Some(told)) => {
                        return self.compare(now, chunk, own, told);
                    }
                    (true, true, ..) => return false,
                }
            }
            Step::Fetch { n } => {
                let n = *n;
                match self.block_step(now, chunk.cp, volume, chunk.first + u64::from(n)) {
                    None => return false,
                    // It must be what was compared.
                    Some(true) if self.arena.crc32c(self.between.scratch()) == self.sum(n) => {
                        self.rewrite(volume, chunk.first + u64::from(n));
                        chunk.step = Step::Rewrite { n };
                    }
                    Some(_) => self.after_block(&mut chunk, n),
                }
            }
            Step::Rewrite { n } => {
                let n = *n;
                if self.between.take_own().is_none() {
                    return false;
                }
                // Where it could not be written the comparison that follows will show.
                self.after_block(&mut chunk, n);
            }
            Step::Flush { began } => match self.between.take_own() {
                None if !*began => {
                    *began = true;
                    self.own_op(DiskOp::Flush { file: volume_file(volume) });
                }
                None => return false,
                Some(_) => chunk.step = Step::Mark,
            },
            Step::Mark => return self.mark(now, &chunk),
        }
        self.between.set_chunk(chunk);
        true
    }

    fn ask_sums(&mut self, now: Nanos, volume: VolumeId, chunk: &mut Chunk) {
        let what = AskWhat::Sums { volume, first: chunk.first, blocks: chunk.blocks as u16 };
        self.ask_between(now, chunk.cp, what);
        if let Step::Read { asked, .. } = &mut chunk.step {
            *asked = self.between.is_asked();
        }
    }

    fn sum(&self, n: u32) -> u32 {
        self.between.sums[n as usize]
    }

    /// Both copies of a chunk are read, or could not be (VFY-1).
    fn compare(&mut self, now: Nanos, mut chunk: Chunk, own: bool, told: bool) -> bool {
        if chunk.blocks > 1 && !(own && told) {
            // Which of them it is shows one by one.
            self.between.verify.single_until = chunk.first + u64::from(chunk.blocks);
            self.end_chunk(now, &chunk, 0);
            return true;
        }
        self.between.verify.progress.cp = chunk.cp;
        let before = self.between.verify.window;
        let same = |window: &Window| window.first == chunk.first && window.blocks == chunk.blocks;
        let mut window = match before {
            Some(window) if window.tried || !same(&window) => {
                self.compare_again(&chunk, own, told, &window);
                self.end_chunk(now, &chunk, chunk.blocks);
                return true;
            }
            Some(window) => window,
            None => Window {
                first: chunk.first,
                blocks: chunk.blocks,
                known: Bits::default(),
                here: Bits::default(),
                there: Bits::default(),
                tried: false,
            },
        };
        for n in 0..chunk.blocks {
            let (here, there) = self.sums_of(n, own, told);
            // One that was known and is alike now was repaired before the peer was lost: it is counted at the end.
            if here.is_none() || here != there {
                self.differs(&mut window, n, here, there);
            }
        }
        let (here, there) = (next(&window.here, 0), next(&window.there, 0));
        let repairs = self.between.verify.progress.repair && (here.is_some() || there.is_some());
        if !repairs {
            self.end_chunk(now, &chunk, chunk.blocks);
            return true;
        }
        self.between.verify.window = Some(window);
        chunk.step = here.map_or(Step::Mark, |n| Step::Fetch { n });
        self.between.set_chunk(chunk);
        true
    }

    /// The sums of block `n` of the chunk: here, there, where it could be read.
    fn sums_of(&self, n: u32, own: bool, told: bool) -> (Option<u32>, Option<u32>) {
        let here = own.then(|| self.arena.crc32c(self.between.chunk_span(n, 1)));
        (here, told.then(|| self.sum(n)))
    }

    /// Block `n` of the window differs.
    fn differs(&mut self, window: &mut Window, n: u32, here: Option<u32>, there: Option<u32>) {
        let block = window.first + u64::from(n);
        let wrong = self.judge(block, here, there);
        if !bit(&window.known, n) {
            self.between.verify.progress.note(block, wrong);
            set(&mut window.known, n);
            match wrong {
                Wrong::Here => set(&mut window.here, n),
                Wrong::There => set(&mut window.there, n),
                Wrong::Unknown => {}
            }
        }
    }

    /// Which copy is wrong: the one that can't be read, or is not what a CP wrote not long ago (VFY-2).
    fn judge(&self, block: u64, here: Option<u32>, there: Option<u32>) -> Wrong {
        let volume = self.between.verify.progress.volume;
        let right = self.recent.get(volume, block);
        let may_be_right =
            |sum: Option<u32>| sum.is_some_and(|sum| right.is_none_or(|right| right == sum));
        match (may_be_right(here), may_be_right(there)) {
            (true, false) => Wrong::There,
            (false, true) => Wrong::Here,
            (true, true) | (false, false) => Wrong::Unknown,
        }
    }

    /// A window in which something was repaired, or a part of it (VFY-4).
    fn compare_again(&mut self, chunk: &Chunk, own: bool, told: bool, window: &Window) {
        for n in 0..chunk.blocks {
            let block = chunk.first + u64::from(n);
            let (here, there) = self.sums_of(n, own, told);
            let alike = here.is_some() && here == there;
            let place = (block - window.first) as u32;
            let was_here = bit(&window.here, place);
            let was_there = bit(&window.there, place);
            let is_new = !bit(&window.known, place);
            let progress = &mut self.between.verify.progress;
            match alike {
                true => {
                    progress.repaired_here += u64::from(was_here);
                    progress.repaired_there += u64::from(was_there);
                }
                false => {
                    // What came to differ since is for the next comparison to judge; what was undecided has been counted.
                    progress.differing += u64::from(is_new);
                    if is_new || was_here || was_there {
                        progress.note_undecided(block);
                    }
                }
            }
        }
    }

    /// Block `n` is dealt with: the next one, or on to what is wrong at the peer.
    fn after_block(&mut self, chunk: &mut Chunk, n: u32) {
        let window = self.between.verify.window.as_ref().expect("repairs are of a window");
        chunk.step = match next(&window.here, n + 1) {
            Some(n) => Step::Fetch { n },
            None => Step::Flush { began: false },
        };
    }

    /// What is wrong at the peer is out of sync (VFY-3).
    fn mark(&mut self, now: Nanos, chunk: &Chunk) -> bool {
        let window = self.between.verify.window.as_mut().expect("repairs are of a window");
        window.tried = true;
        let window = *window;
        if next(&window.there, 0).is_none() {
            self.end_chunk(now, chunk, 0);
            return true;
        }
        if !self.superblock.is_idle() || self.fault.is_some() {
            return false;
        }
        if self.superblock.durable.state == SyncState::InSync {
            let durable = self.superblock.durable;
            self.superblock.begin(&self.arena, &mut self.disks, |next| {
                next.state = SyncState::OutOfSync;
                next.whole = false;
                next.peer_cp = durable.cp;
                next.peer_chain = durable.chain;
                next.peer_next_chain = [0; 32];
                next.clean = false;
            });
            return true;
        }
        let volume = self.between.verify.progress.volume;
        let mut from = 0;
        while let Some(n) = next(&window.there, from) {
            self.map.set(volume, window.first + u64::from(n));
            from = n + 1;
        }
        self.end_chunk(now, chunk, 0);
        true
    }

    /// A chunk is over; so many blocks are done with, or none and it comes again.
    fn end_chunk(&mut self, now: Nanos, chunk: &Chunk, done: u32) {
        let verify = &mut self.between.verify;
        verify.next += u64::from(done);
        verify.progress.compared = verify.next;
        let end = verify.window.map(|window| window.first + u64::from(window.blocks));
        if end.is_some_and(|end| verify.next >= end) {
            verify.window = None;
        }
        // Clients have the disks for as long as the chunk had them.
        let took = now.since(chunk.began);
        verify.at = if self.commands > 0 { now.after(took) } else { now };
        self.between.end_task();
    }
}

impl VerifyProgress {
    fn note(&mut self, block: u64, wrong: Wrong) {
        self.differing += 1;
        match wrong {
            Wrong::Here => self.wrong_here += 1,
            Wrong::There => self.wrong_there += 1,
            Wrong::Unknown => self.note_undecided(block),
        }
    }
}
