//! Consistency points at the source: seal, list, apply here, send there, and only when both have it: superblock, free.

use super::{Core, Waiter};
use crate::disks::Work;
use crate::shard::{CpDone, Reply};
use crate::snapshot::CpCounters;
use crate::volumes::disk_op;
use ibid_driver::Disk;
use ibid_engine::point::Prove;
use ibid_units::{CpId, Nanos};
use ibid_wire::Crc32c;
use ibid_wire::peer::{ChainDigest, CpOpen, RECORD_BYTES, RecordKind};

/// How far the running CP is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CpPhase {
    /// None runs.
    Idle,
    /// The list is being made.
    Listing,
    /// The volumes of both nodes are being written.
    Applying,
    /// Both have it; the superblock is being written here.
    Recording,
}

impl<D: Disk> Core<D> {
    pub(super) fn point_turn(&mut self, now: Nanos) -> bool {
        if now >= self.cp_due {
            self.cp_due = now.after(self.cp_interval);
            self.log.seal(now);
        }
        match self.cp_phase {
            CpPhase::Idle => self.begin_cp(now),
            CpPhase::Listing => {
                self.list_step();
                true
            }
            CpPhase::Applying => self.apply_step(),
            CpPhase::Recording => self.record_step(now),
        }
    }

    fn running_cp(&self) -> CpId {
        self.superblock.durable.cp.next()
    }

    fn begin_cp(&mut self, now: Nanos) -> bool {
        let Some(segment) = self.log.drainable() else { return false };
        if !self.superblock.is_idle()
            || self.superblock.durable.epoch != self.epoch
            || self.fault.is_some()
        {
            return false;
        }
        assert!(segment == self.running_cp(), "a CP drains the segment with its number");
        self.cp_phase = CpPhase::Listing;
        self.cp_began = now;
        self.peer_has_cp = false;
        self.open = None;
        self.list_sent = None;
        self.lister.start(&mut self.list);
        self.hashed = 0;
        self.list_crc = Crc32c::new();
        self.list_chain = ChainDigest::new(&self.superblock.durable.chain, segment);
        // Reads from here on find this segment's blocks in its index; those before are waited for (ReadGate).
        self.gate.turn();
        true
    }

    fn list_step(&mut self) {
        let cp = self.running_cp();
        let complete =
            self.lister.step(cp, self.log.dirty_index(cp), &self.log.pages, &mut self.list);
        self.list_crc.update(&self.list.bytes()[self.hashed * RECORD_BYTES..]);
        for index in self.hashed..self.list.len() {
            let record = self.list.get(index).expect("a record just made");
            self.list_chain.push(&record);
            match record.kind {
                RecordKind::Reference(_) => {
                    self.cp_sum.references += 1;
                    self.cp_sum.referenced_blocks += u64::from(record.pages());
                }
                RecordKind::Zeroes | RecordKind::Deallocate => self.cp_sum.opcodes += 1,
                RecordKind::Block | RecordKind::Volume(_) => {}
            }
        }
        self.hashed = self.list.len();
        if !complete {
            return;
        }
        let (last_lsn, batches) = self.log.closed_segment(cp);
        let chain_before = self.superblock.durable.chain;
        let chain = std::mem::replace(&mut self.list_chain, ChainDigest::new(&chain_before, cp));
        let crc = std::mem::take(&mut self.list_crc);
        self.open = Some(CpOpen {
            cp,
            last_lsn,
            records: self.list.len() as u32,
            batches,
            list_crc: crc.finish(),
            full: self.cp_full,
            chain_before,
            chain_after: chain.finish(),
        });
        assert!(
            self.apply.start(cp, &self.list, Prove::References),
            "a list made here is a right one"
        );
        self.blocks.start();
        self.cp_phase = CpPhase::Applying;
    }

    fn apply_step(&mut self) -> bool {
        let mut busy = false;
        // After an error no further write: the volume may be gone, and the log still has everything.
        if self.gate.is_clear() && self.fault.is_none() {
            while let Some(op) = self.apply.next_op(&self.list, &self.log.pages) {
                self.disks.submit(disk_op(&self.geometry, self.apply.cp(), op), Work::Apply);
                busy = true;
            }
        }
        if self.apply.is_done()
            && self.peer_has_cp
            && self.superblock.is_idle()
            && self.fault.is_none()
        {
            let open = self.open.expect("an applied CP was opened");
            self.superblock.begin(&self.arena, &mut self.disks, |next| {
                next.cp = open.cp;
                next.last_lsn = open.last_lsn;
                next.chain = open.chain_after;
                next.clean = false;
            });
            self.cp_phase = CpPhase::Recording;
            busy = true;
        }
        busy
    }

    fn record_step(&mut self, now: Nanos) -> bool {
        let open = self.open.expect("a CP that is recorded was opened");
        if self.superblock.durable.cp != open.cp {
            return false;
        }
        self.log.free(open.cp);
        self.apply.stop();
        self.cp_phase = CpPhase::Idle;
        self.open = None;
        self.list_sent = None;
        self.cp_last = now.since(self.cp_began);
        self.cp_sum.count += 1;
        self.cp_sum.blocks = self.blocks.blocks();
        self.answer_waiters(now);
        true
    }

    fn answer_waiters(&mut self, now: Nanos) {
        let done = self.superblock.durable;
        while self.waiters.front().is_some_and(|waiter| waiter.target <= done.cp) {
            let Some(Waiter { began, before, link_bytes, reply, .. }) = self.waiters.pop_front()
            else {
                return;
            };
            let counters: CpCounters = self.cp_sum.since(&before);
            let answer = CpDone {
                cp: done.cp,
                taken: true,
                chain: done.chain,
                counters,
                link_bytes: self.port_counters.tx_bytes[1] - link_bytes,
                took: now.since(began),
            };
            // Whoever asked may have given up; nothing depends on the answer.
            drop(reply.try_send(Reply::Cp(answer)));
        }
    }
}
