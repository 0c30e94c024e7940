//! Pages of the log whose bytes in memory are no longer those that came: they are read again from the log device, or asked of the peer,
//! before a CP writes them. One at a time; it happens when memory fails, not under load.
//! A client's read that meets such a page waits for the CP that heals it, which then is not put off.
//! HEAL-1  what is written to a volume from a healed page carries the sum that was taken when the client's bytes came; what a
//!         CP sends of the log to the peer does, too.
//! HEAL-2 no byte of the log's memory is shown to a client unless it still is what was summed when it came.

use super::{Core, fetch};
use crate::disks::{LOG_FILE, Work};
use crate::volumes::disk_op;
use ibid_driver::{Disk, DiskOp};
use ibid_engine::point::ApplyOp;
use ibid_units::{LogBlock, Nanos, SECTOR_BYTES, Span};
use ibid_wire::peer::AskWhat;
use std::collections::VecDeque;

/// Pages that may wait: as many as a CP has operations under way.
const WAITING_MAX: usize = 64;
/// The peer is asked again after so long.
const AGAIN_AFTER: Nanos = Nanos::from_millis(1000);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Idle,
    /// The log device is read.
    Reading,
    /// The peer is asked, or will be when it is there.
    Asking {
        at: Nanos,
        asked: bool,
    },
}

/// The pages at hand.
#[derive(Debug)]
pub(super) struct Heal {
    waiting: VecDeque<ApplyOp>,
    /// A page of the running CP that is to be sent to the peer, after those that wait here.
    to_send: Option<LogBlock>,
    step: Step,
    /// A read waits for a page to be healed: a CP is needed.
    pub(super) wanted: bool,
    /// Pages that were healed, since start.
    pub(super) healed: u64,
}

impl Heal {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::with_capacity(WAITING_MAX),
            to_send: None,
            step: Step::Idle,
            wanted: false,
            healed: 0,
        }
    }

    /// Takes an operation that waits for its page; false where there is no room, and the CP must be begun again.
    pub(super) fn take(&mut self, op: ApplyOp) -> bool {
        let fits = self.waiting.len() < WAITING_MAX;
        if fits {
            self.waiting.push_back(op);
        }
        fits
    }

    /// A page that can't be sent before it is healed.
    pub(super) fn take_to_send(&mut self, page: LogBlock) {
        self.to_send.get_or_insert(page);
    }

    /// The peer has the CP: nothing of it is sent any more. True where nothing is under way that still writes to its pages.
    pub(super) fn ends(&mut self) -> bool {
        match self.step {
            Step::Reading | Step::Asking { asked: true, .. } => false,
            Step::Idle | Step::Asking { asked: false, .. } => {
                self.to_send = None;
                self.step = Step::Idle;
                true
            }
        }
    }

    fn page(&self) -> Option<LogBlock> {
        match self.waiting.front() {
            None => self.to_send,
            Some(ApplyOp::Rotten { page, .. }) => Some(*page),
            Some(
                ApplyOp::Write { .. }
                | ApplyOp::Zero { .. }
                | ApplyOp::Deallocate { .. }
                | ApplyOp::Flush { .. },
            ) => unreachable!("only what is rotten waits to be healed"),
        }
    }
}

impl<D: Disk> Core<D> {
    pub(super) fn heal_turn(&mut self, now: Nanos) -> bool {
        let Some(page) = self.heal.page() else { return false };
        let cp = self.apply.cp();
        match self.heal.step {
            Step::Idle => {
                self.heal.step = Step::Reading;
                let span = self.geometry.span(cp, page, 1);
                let at = self.geometry.device_at(cp, page);
                self.disks.submit(DiskOp::Read { file: LOG_FILE, at, span }, Work::Heal);
                true
            }
            Step::Asking { at, asked: false } if self.peer.is_connected() && now >= at => {
                let part = self.log.pages.part(cp, page);
                let what = AskWhat::Log {
                    segment: cp,
                    block: page,
                    first: part.first,
                    sectors: part.count,
                };
                if self.asker.ask(self.superblock.durable.cp, what, fetch::TOKEN_HEAL).is_some() {
                    self.heal.step = Step::Asking { at, asked: true };
                }
                true
            }
            Step::Reading | Step::Asking { .. } => false,
        }
    }

    /// The log device was read.
    pub(super) fn reread(&mut self, now: Nanos, success: bool) {
        self.heal.step = Step::Asking { at: now, asked: false };
        if success {
            self.end_heal();
        }
    }

    /// The peer has answered, with the bytes in their place, or can't tell.
    pub(super) fn heal_answered(&mut self, now: Nanos) {
        self.heal.step = Step::Asking { at: now.after(AGAIN_AFTER), asked: false };
        self.end_heal();
    }

    /// The session is over: nobody will answer.
    pub(super) fn heal_unanswered(&mut self, now: Nanos) {
        if let Step::Asking { asked: true, .. } = self.heal.step {
            self.heal.step = Step::Asking { at: now, asked: false };
        }
    }

    /// Where the page is right again, its sectors go to the volume (HEAL-1).
    fn end_heal(&mut self) {
        let Some(page) = self.heal.page() else { return };
        let cp = self.apply.cp();
        let part = self.log.pages.part(cp, page);
        let whole = self.geometry.span(cp, page, 1);
        let sector = SECTOR_BYTES as u32;
        let at = whole.at + u64::from(u32::from(part.first) * sector);
        let sum = self.arena.crc32c(Span::new(at, u32::from(part.count) * sector));
        if sum != self.log.pages.crc(cp, page) {
            return;
        }
        self.heal.step = Step::Idle;
        self.heal.healed += 1;
        if let Some(ApplyOp::Rotten { volume, first, sectors, page }) =
            self.heal.waiting.pop_front()
        {
            let op = ApplyOp::Write { volume, first, sectors, page };
            self.disks.submit(disk_op(&self.geometry, cp, op), Work::Apply);
        } else {
            self.heal.to_send = None;
        }
    }
}
