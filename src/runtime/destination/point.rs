//! Consistency points at the destination: the list collected, applied to the volumes from the log here, recorded.

use super::Core;
use crate::disks::Work;
use crate::snapshot::Fault;
use crate::volumes::disk_op;
use ibid_driver::Disk;
use ibid_engine::point::{ListState, Prove};
use ibid_units::Nanos;
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
            self.fault.get_or_insert(Fault::Peer);
            self.report_due = true;
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
            self.fault.get_or_insert(Fault::Peer);
            return false;
        }
        let Some(&open) = self.lists.open() else { return false };
        if self.lists.state() != ListState::Whole || self.fault.is_some() {
            return false;
        }
        if self.apply.cp() != open.cp {
            return self.begin_apply(&open);
        }
        let scanned = self.apply.is_scanned(&self.list);
        let mut busy = false;
        while let Some(op) = self.apply.next_op(&self.list, &self.mirror.pages) {
            self.disks.submit(disk_op(&self.geometry, open.cp, op), Work::Apply);
            busy = true;
        }
        if !scanned {
            self.report_due |= self.apply.is_scanned(&self.list);
            busy = true;
        }
        let recorded = self.superblock.durable.cp == open.cp;
        if self.apply.is_done() && !recorded && self.superblock.is_idle() {
            self.superblock.begin(&self.arena, &mut self.disks, |next| {
                next.cp = open.cp;
                next.last_lsn = open.last_lsn;
                next.chain = open.chain_after;
                next.clean = false;
            });
            return true;
        }
        if recorded {
            self.mirror.drained(open.cp);
            self.cp_sum.count += 1;
            self.cp_sum.refused += if open.full { 0 } else { self.apply.refused_count() };
            self.cp_last = now.since(self.cp_began);
            self.apply.stop();
            self.lists.reset();
            self.report_due = true;
            return true;
        }
        busy
    }

    /// Starts to apply a list that is whole, once the log here holds what it refers to (MIR-3).
    pub(super) fn begin_apply(&mut self, open: &CpOpen) -> bool {
        if !self.mirror.holds(open.cp, open.batches, open.last_lsn) || self.apply.is_busy() {
            return false;
        }
        let prove = if open.full { Prove::Nothing } else { Prove::References };
        if !self.apply.start(open.cp, &self.list, prove) {
            self.fault = Some(Fault::Peer);
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
                Some((RecordKind::Block | RecordKind::Volume(_), _)) | None => {}
            }
        }
        true
    }
}
