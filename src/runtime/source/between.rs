//! What a source does with its volumes between two CPs, one thing at a time: it helps a read whose blocks could not be read here with the
//! peer's bytes, or compares a chunk of both copies. A CP and these take turns, so that neither keeps the other waiting for long.
//! BTW-1  none of it is under way when a CP begins: what it reads and writes of a volume is one state, the same as the peer's.
//! PEER-1 a read shows the peer's bytes only for sectors that are not in the log, of a block that is not in the out-of-sync map, told by a
//!        peer at the CP that this node's volumes are at; and never where a recent sum says otherwise.
//! PEER-2 a block is rewritten from the peer only while no CP writes volumes.

use super::Core;
use super::fetch::TOKEN_BETWEEN;
use super::point::CpPhase;
use super::reads::SCATTER_WORDS;
use super::verify::{Chunk, Verify};
use crate::disks::{Work, volume_file};
use crate::layout::Span64;
use ibid_driver::{Disk, DiskOp};
use ibid_units::{
    BLOCK_BYTES, BLOCK_SECTORS, CpId, Nanos, SECTOR_BYTES, Sector, Sectors, Span, VolumeId,
};
use ibid_wire::nvme_tcp::Status;
use ibid_wire::peer::{ASK_SECTORS_MAX, Answer, AnswerBody, AskWhat, SUMS_MAX};
use std::collections::VecDeque;

/// A question holds up CPs for no longer than this; then they have their turn, and it is asked again.
const ASK_MAX: Nanos = Nanos::from_millis(1000);
/// After the peer said "not now", or nothing, so long.
const AGAIN_AFTER: Nanos = Nanos::from_millis(20);

/// An operation on a volume here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OwnOp {
    Idle,
    Under,
    Done,
    Failed,
}

/// A question to the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Question {
    Idle,
    Asked,
    Answered,
    /// It can't tell, and won't be able to soon.
    Refused,
    /// The session is over, or it is not the time to ask.
    Lost,
}

/// The one thing that is under way.
#[derive(Clone, Copy, Debug)]
enum Task {
    Read(PeerRead),
    Chunk(Chunk),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The block is read here once more, alone: which one is bad shows only so.
    Own,
    /// The peer is asked for it.
    Peer,
    /// It is written here.
    Rewrite,
    /// All is read; what was rewritten is flushed.
    Flush,
}

/// A client's read that needs the peer's help, block by block.
#[derive(Clone, Copy, Debug)]
struct PeerRead {
    place: u32,
    cp: CpId,
    volume: VolumeId,
    first: Sector,
    sectors: Sectors,
    block: u64,
    step: Step,
    rewrote: bool,
    /// A block came from the peer.
    helped: bool,
}

impl PeerRead {
    fn end_block(&self) -> u64 {
        self.first.block() + u64::from(self.sectors.blocks_from(self.first))
    }
}

/// The state of it.
#[derive(Debug)]
pub(super) struct Between {
    task: Option<Task>,
    own: OwnOp,
    question: Question,
    asked_at: Nanos,
    /// Sectors of the block that is asked for which have come.
    come: u32,
    /// The next turn is a CP's, if one is due.
    cp_next: bool,
    again_at: Nanos,
    /// Reads that need the peer's help.
    waiting: VecDeque<u32>,
    /// Of the read that is under way: a bit for each sector that is the volume's.
    wanted: [u64; SCATTER_WORDS],
    /// What the peer told of a chunk.
    pub(super) sums: Vec<u32>,
    region: Span64,
    pub(super) verify: Verify,
    pub(super) reads_from_peer: u64,
    pub(super) rewritten: u64,
}

impl Between {
    pub(super) fn new(region: Span64, reads_max: usize) -> Self {
        assert!(region.blocks >= 2, "a block of each copy has memory to be compared in");
        Self {
            task: None,
            own: OwnOp::Idle,
            question: Question::Idle,
            asked_at: Nanos::ZERO,
            come: 0,
            cp_next: false,
            again_at: Nanos::ZERO,
            waiting: VecDeque::with_capacity(reads_max),
            wanted: [0; SCATTER_WORDS],
            sums: vec![0; usize::from(SUMS_MAX)],
            region,
            verify: Verify::new(),
            reads_from_peer: 0,
            rewritten: 0,
        }
    }

    /// Something is under way: no CP begins (BTW-1).
    pub(super) fn is_busy(&self) -> bool {
        self.task.is_some()
    }

    /// Nothing is under way, and nothing waits for its time.
    pub(super) fn is_quiet(&self) -> bool {
        self.task.is_none() && self.waiting.is_empty() && !self.verify.progress.is_running()
    }

    pub(super) fn cp_begins(&mut self) {
        assert!(self.task.is_none(), "BTW-1: a CP begins when nothing else is under way");
        self.cp_next = false;
    }

    pub(super) fn wait_read(&mut self, place: u32) {
        self.waiting.push_back(place);
    }

    pub(super) fn disk_done(&mut self, success: bool) {
        assert!(self.own == OwnOp::Under, "an operation ends once");
        self.own = if success { OwnOp::Done } else { OwnOp::Failed };
    }

    /// Blocks of a chunk, at most: the last block of the region is for one that comes from the peer.
    pub(super) fn chunk_max(&self) -> u32 {
        (self.region.blocks - 1).min(u32::from(SUMS_MAX))
    }

    /// Memory of a chunk's block `n` and those behind it.
    pub(super) fn chunk_span(&self, n: u32, blocks: u32) -> Span {
        Span::new(self.region.at + u64::from(n) * BLOCK_BYTES, blocks * BLOCK_BYTES as u32)
    }

    /// Memory of one block from either node.
    pub(super) fn scratch(&self) -> Span {
        self.chunk_span(self.region.blocks - 1, 1)
    }

    /// The operation's result, once.
    pub(super) fn take_own(&mut self) -> Option<bool> {
        let result = match self.own {
            OwnOp::Idle | OwnOp::Under => return None,
            OwnOp::Done => true,
            OwnOp::Failed => false,
        };
        self.own = OwnOp::Idle;
        Some(result)
    }

    /// The answer's, once.
    pub(super) fn take_answer(&mut self) -> Option<bool> {
        let result = match self.question {
            Question::Idle | Question::Asked | Question::Lost => return None,
            Question::Answered => true,
            Question::Refused => false,
        };
        self.question = Question::Idle;
        Some(result)
    }

    pub(super) fn is_asked(&self) -> bool {
        self.question == Question::Asked
    }

    /// The sectors of the block at hand that are wanted, a bit each.
    fn wanted_of_block(&self, read: &PeerRead) -> u8 {
        let mut mask = 0;
        for bit in 0..BLOCK_SECTORS {
            let sector = read.block * BLOCK_SECTORS + bit;
            let Some(offset) = sector.checked_sub(read.first.get()) else { continue };
            let is_in = offset < u64::from(read.sectors.get());
            if is_in && self.wanted[(offset / 64) as usize] >> (offset % 64) & 1 == 1 {
                mask |= 1 << bit;
            }
        }
        mask
    }

    pub(super) fn set_chunk(&mut self, chunk: Chunk) {
        self.task = Some(Task::Chunk(chunk));
    }

    /// What was under way is over; a CP that is due comes next.
    pub(super) fn end_task(&mut self) {
        assert!(self.own != OwnOp::Under, "a task ends when its disk operation has");
        self.task = None;
        self.own = OwnOp::Idle;
        self.question = Question::Idle;
        self.come = 0;
        self.cp_next = true;
    }
}

impl<D: Disk> Core<D> {
    pub(super) fn between_turn(&mut self, now: Nanos) -> bool {
        let mut busy = self.expire_peer_reads(now);
        self.verify_turn(now);
        let between = &mut self.between;
        if between.question == Question::Asked && now.since(between.asked_at) >= ASK_MAX {
            self.not_now();
        }
        let between = &mut self.between;
        if between.own == OwnOp::Under {
            return busy;
        }
        if between.question == Question::Lost {
            self.give_up(now);
            return true;
        }
        busy |= match between.task {
            None => self.begin_task(now),
            Some(_) if between.question == Question::Asked => false,
            Some(Task::Read(read)) => self.read_step(now, read),
            Some(Task::Chunk(chunk)) => self.chunk_step(now, chunk),
        };
        busy
    }

    /// The question that is out is no more.
    pub(super) fn not_now(&mut self) {
        self.asker.cancel(TOKEN_BETWEEN);
        self.between_unanswered();
    }

    /// The session is over: nobody will answer.
    pub(super) fn between_unanswered(&mut self) {
        if self.between.question == Question::Asked {
            self.between.question = Question::Lost;
        }
    }

    /// What is under way is left, to be begun anew: a CP that the peer waits for may be needed first.
    fn give_up(&mut self, now: Nanos) {
        if let Some(Task::Read(read)) = self.between.task {
            self.suspend_peer_read(read.place);
        }
        self.between.end_task();
        self.between.again_at = now.after(AGAIN_AFTER);
    }

    fn begin_task(&mut self, now: Nanos) -> bool {
        let ready = self.peer.is_connected() && now >= self.between.again_at;
        let cp_comes =
            self.between.cp_next && self.cp_phase == CpPhase::Idle && self.drainable().is_some();
        if !ready || cp_comes {
            return false;
        }
        self.begin_read_task(now) || self.begin_chunk(now)
    }

    /// The CP that the volumes of both nodes are at as far as blocks go that no segment in the log writes. While a CP is applied here
    /// and the peer has it already, that is the peer's: it may take long, where it is this node's volume that fails.
    fn common_cp(&self) -> Option<CpId> {
        match self.cp_phase {
            CpPhase::Idle => Some(self.superblock.durable.cp),
            CpPhase::Applying if self.peer_has_cp => Some(self.running_cp()),
            CpPhase::Bringing
            | CpPhase::Listing
            | CpPhase::Applying
            | CpPhase::Mapping
            | CpPhase::Recording => None,
        }
    }

    fn begin_read_task(&mut self, now: Nanos) -> bool {
        let (Some(cp), Some(&place)) = (self.common_cp(), self.between.waiting.front()) else {
            return false;
        };
        let Some((volume, first, sectors, wanted)) = self.begin_peer_read(now, place) else {
            return false;
        };
        self.between.waiting.pop_front();
        self.between.wanted = wanted;
        self.between.task = Some(Task::Read(PeerRead {
            place,
            cp,
            volume,
            first,
            sectors,
            block: first.block(),
            step: Step::Own,
            rewrote: false,
            helped: false,
        }));
        true
    }

    /// Reads that wait in vain.
    fn expire_peer_reads(&mut self, now: Nanos) -> bool {
        let mut any = false;
        while let Some(&place) = self.between.waiting.front() {
            let slot = self.reads.get(place);
            let status = if slot.abandoned {
                None
            } else if self.is_away(now) {
                Some(Status::UNRECOVERED_READ_ERROR)
            } else if now.since(slot.parsed) >= self.sync.stall_timeout {
                Some(Status::COMMAND_INTERRUPTED)
            } else {
                return any;
            };
            any = true;
            self.between.waiting.pop_front();
            match status {
                None => self.finish_read(now, place),
                Some(status) => self.fail_waiting_read(now, place, status),
            }
        }
        any
    }

    /// The peer is not there, and not for a moment only: once it was silent for so long that it was given up, it has as long to come back.
    pub(super) fn is_away(&self, now: Nanos) -> bool {
        let silent = now.since(self.peer.heard_since(self.sync.sought_since));
        let timeout = self.sync.peer_timeout;
        let refused = self.peer.refusal().is_some();
        let gone = silent >= timeout.after(timeout) || refused || self.is_alone();
        !self.peer.is_connected() && gone
    }

    fn read_step(&mut self, now: Nanos, mut read: PeerRead) -> bool {
        match read.step {
            Step::Own => self.own_step(now, &mut read),
            Step::Peer => match self.block_step(now, read.cp, read.volume, read.block) {
                None => return false,
                Some(true) if self.may_show(&read) => {
                    self.lay_in(&read);
                    read.helped = true;
                    read.step = Step::Rewrite;
                }
                Some(_) => self.end_read_task(now, &mut read, false),
            },
            Step::Rewrite => match self.between.take_own() {
                None if self.cp_phase == CpPhase::Idle => {
                    self.rewrite(read.volume, read.block);
                    read.rewrote = true;
                }
                // A CP writes volumes (PEER-2), or it is written; where that failed the next read will show.
                None | Some(_) => {
                    read.block += 1;
                    read.step = Step::Own;
                }
            },
            Step::Flush => match self.between.take_own() {
                None if read.rewrote => {
                    read.rewrote = false;
                    self.own_op(DiskOp::Flush { file: volume_file(read.volume) });
                }
                None | Some(_) => {
                    self.between.end_task();
                    return true;
                }
            },
        }
        self.between.task = Some(Task::Read(read));
        true
    }

    fn own_step(&mut self, now: Nanos, read: &mut PeerRead) {
        match self.between.take_own() {
            Some(true) => {
                self.lay_in(read);
                read.block += 1;
            }
            Some(false) if self.map.contains(read.volume, read.block) => {
                self.end_read_task(now, read, false);
            }
            Some(false) => read.step = Step::Peer,
            None if read.block == read.end_block() => {
                self.between.reads_from_peer += u64::from(read.helped);
                self.end_read_task(now, read, true);
            }
            None if self.between.wanted_of_block(read) == 0 => read.block += 1,
            None => {
                let at = read.block * BLOCK_BYTES;
                let span = self.between.scratch();
                self.own_op(DiskOp::Read { file: volume_file(read.volume), at, span });
            }
        }
    }

    /// The read is answered; what was rewritten for it is flushed then.
    fn end_read_task(&mut self, now: Nanos, read: &mut PeerRead, success: bool) {
        self.end_peer_read(now, read.place, success);
        read.step = Step::Flush;
    }

    /// What a CP wrote not long ago is known (SUM-1): bytes of the peer that are others are wrong.
    fn may_show(&self, read: &PeerRead) -> bool {
        let sum = self.recent.get(read.volume, read.block);
        sum.is_none_or(|sum| sum == self.arena.crc32c(self.between.scratch()))
    }

    /// The wanted sectors of the block at hand go where the read's bytes are.
    fn lay_in(&mut self, read: &PeerRead) {
        let mask = self.between.wanted_of_block(read);
        let from = self.between.scratch();
        for bit in (0..BLOCK_SECTORS).filter(|bit| mask >> bit & 1 == 1) {
            let sector = Span::new(from.at + bit * SECTOR_BYTES, SECTOR_BYTES as u32);
            let to = self.run_at(read.place, Sector::new(read.block * BLOCK_SECTORS + bit));
            self.arena.copy_within(sector, to);
        }
    }

    /// Starts the operation on a volume here.
    pub(super) fn own_op(&mut self, op: DiskOp) {
        assert!(self.between.own == OwnOp::Idle, "one operation at a time");
        self.between.own = OwnOp::Under;
        self.disks.submit(op, Work::Between);
    }

    /// Writes the block that came from the peer where it belongs (PEER-2).
    pub(super) fn rewrite(&mut self, volume: VolumeId, block: u64) {
        assert!(
            self.cp_phase == CpPhase::Idle && self.between.is_busy(),
            "PEER-2: a block is rewritten between two CPs"
        );
        self.between.rewritten += 1;
        let at = block * BLOCK_BYTES;
        let span = self.between.scratch();
        self.own_op(DiskOp::Write { file: volume_file(volume), at, span });
    }

    /// Asks the peer; where there is no room for another question, the next turn does.
    pub(super) fn ask_between(&mut self, now: Nanos, cp: CpId, what: AskWhat) {
        assert!(!self.between.is_asked(), "one question at a time");
        if self.asker.ask(cp, what, TOKEN_BETWEEN).is_some() {
            self.between.question = Question::Asked;
            self.between.asked_at = now;
        }
    }

    /// Moves a question for a whole block on. `None` while it is under way; then whether the block has come.
    pub(super) fn block_step(
        &mut self,
        now: Nanos,
        cp: CpId,
        volume: VolumeId,
        block: u64,
    ) -> Option<bool> {
        let come = match self.between.take_answer() {
            Some(false) => {
                self.between.come = 0;
                return Some(false);
            }
            Some(true) if self.between.come == BLOCK_SECTORS as u32 => {
                self.between.come = 0;
                return Some(true);
            }
            Some(true) | None => self.between.come,
        };
        let most = (self.frame.body_bytes_max() - ibid_wire::peer::ANSWER_HEAD_BYTES)
            / SECTOR_BYTES as usize;
        let sectors = (BLOCK_SECTORS as u16 - come as u16).min(most as u16).min(ASK_SECTORS_MAX);
        let first = Sector::new(block * BLOCK_SECTORS + u64::from(come));
        self.ask_between(now, cp, AskWhat::Volume { volume, first, sectors });
        None
    }

    /// The peer has answered.
    pub(super) fn volume_answered(&mut self, what: &AskWhat, answer: &Answer<'_>) {
        assert!(self.between.is_asked(), "ASK-1: an answer comes to a question that is out");
        let fits = answer.fits(what);
        self.between.question = match (answer.body, what) {
            (AnswerBody::Bytes(bytes), AskWhat::Volume { sectors, .. }) if fits => {
                let at = self.between.scratch().at + u64::from(self.between.come) * SECTOR_BYTES;
                self.arena.copy_in(at, bytes);
                self.between.come += u32::from(*sectors);
                Question::Answered
            }
            (AnswerBody::Sums(sums), AskWhat::Sums { .. }) if fits => {
                for (sum, told) in self.between.sums.iter_mut().zip(sums.iter()) {
                    *sum = told;
                }
                Question::Answered
            }
            (_, _) => Question::Refused,
        };
    }
}
