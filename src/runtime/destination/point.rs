//! Consistency points at the destination: the list collected, applied to the volumes from the log here, recorded.

use super::Core;
use crate::disks::Work;
use crate::snapshot::Fault;
use crate::volumes::disk_op;
use ibid_driver::Disk;
use ibid_engine::point::{ListState, Prove};
use ibid_units::Nanos;
use ibid_wire::disk::SyncState;
use ibid_wire::peer::{CpOpen, RecordKind, Section};

impl<D: Disk> Core<D> {
    pub(super) fn open_came(&mut self, now: Nanos, body: &[u8]) -> bool {
        let Ok(open) = CpOpen::parse(body) else { return false };
        let durable = self.superblock.durable;
        if open.cp > durable.cp && self.lists.open().is_none() {
            self.cp_began = now;
        }
        let accepted = self.lists.announced(&open, durable.cp, &durable.chain, &mut self.list);
        if !accepted {
            // Not the CP that follows, or of another history: saying nothing would have it sent for ever.
            self.set_fault(now, Fault::Peer);
        }
        accepted
    }

    pub(super) fn list_came(&mut self, section: &Section, body: &[u8]) -> bool {
        let cp = self.mirror.widen(section.segment);
        if cp <= self.superblock.durable.cp {
            return true;
        }
        self.lists.stretch(cp, section.place, body, &mut self.list)
    }

    pub(super) fn point_turn(&mut self, now: Nanos) -> bool {
        if self.lists.state() == ListState::Wrong {
            self.set_fault(now, Fault::Peer);
            return false;
        }
        if self.is_recorded() {
            self.finish_cp(now);
            return true;
        }
        // A source that is being taken is judged by what is durable: nothing new is begun meanwhile.
        if self.hello.is_some() {
            return false;
        }
        let Some(&open) = self.lists.open() else { return false };
        if self.lists.state() != ListState::Whole || self.fault.is_some() {
            return false;
        }
        if self.superblock.durable.fresh {
            // Before the first block is written: from here on the volumes hold something.
            if self.superblock.is_idle() {
                self.superblock.begin(&self.arena, &mut self.disks, |next| next.fresh = false);
            }
            return false;
        }
        if self.apply.cp() != open.cp {
            return self.begin_apply(now, &open);
        }
        if self.apply.has_failed() && !self.apply.is_busy() && self.trouble.may_retry(now) {
            self.apply.restart();
            self.staged = 0;
            return true;
        }
        let scanned = self.apply.is_scanned(&self.list);
        let mut busy = false;
        while let Some(op) = self.apply.next_op(&self.list, &self.mirror.pages, &self.memory) {
            self.disks.submit(disk_op(&self.geometry, open.cp, op), Work::Apply);
            busy = true;
        }
        busy |= self.apply.is_paused();
        if !scanned {
            self.report_due |= self.apply.is_scanned(&self.list);
            busy = true;
        }
        if self.apply.is_done() && self.superblock.is_idle() {
            self.superblock.begin(&self.arena, &mut self.disks, |next| {
                next.cp = open.cp;
                next.last_lsn = open.last_lsn;
                next.chain = open.chain_after;
                // Where the volumes come from, whatever is adopted later without a CP.
                (next.peer_cp, next.peer_chain) = (open.cp, open.chain_after);
                next.state = if open.in_sync { SyncState::InSync } else { SyncState::OutOfSync };
                next.fresh = false;
                next.clean = false;
            });
            return true;
        }
        busy
    }

    /// The superblock holds the CP at hand, and log and list do not know it yet.
    pub(super) fn is_recorded(&self) -> bool {
        let recorded =
            |open: &CpOpen| self.superblock.durable.cp == open.cp && self.apply.cp() == open.cp;
        self.lists.open().is_some_and(recorded)
    }

    fn finish_cp(&mut self, now: Nanos) {
        let Some(&open) = self.lists.open() else { return };
        self.mirror.drained(open.cp);
        self.trouble.is_over();
        self.cp_sum.count += 1;
        self.cp_sum.refused += if open.full { 0 } else { self.apply.refused_count() };
        self.cp_last = now.since(self.cp_began);
        self.apply.stop();
        self.lists.reset();
        self.report_due = true;
    }

    /// Starts to apply a list that is whole, once the log here holds what it refers to (MIR-3).
    fn begin_apply(&mut self, now: Nanos, open: &CpOpen) -> bool {
        if !self.mirror.holds(open.cp, open.batches, open.last_lsn) || self.apply.is_busy() {
            return false;
        }
        let prove = if open.full { Prove::Nothing } else { Prove::References };
        if !self.apply.start(open.cp, &self.list, prove) {
            self.set_fault(now, Fault::Peer);
            return true;
        }
        self.staged = 0;
        for index in 0..self.list.len() {
            match self.list.get(index).map(|record| (record.kind, record.pages())) {
                Some((RecordKind::Reference(_), pages)) => {
                    self.cp_sum.references += 1;
                    self.cp_sum.referenced_blocks += u64::from(pages);
                }
                Some((RecordKind::Zeroes | RecordKind::Deallocate, _)) => self.cp_sum.opcodes += 1,
                Some((RecordKind::Block | RecordKind::Hole | RecordKind::Volume(_), _)) | None => {}
            }
        }
        true
    }
}
