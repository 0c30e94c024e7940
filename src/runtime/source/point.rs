//! Consistency points at the source: seal, list, apply here, send there, and only when both have it: superblock, free.

use super::{Core, Waiter};
use crate::disks::Work;
use crate::shard::{CpDone, Reply};
use crate::snapshot::CpCounters;
use crate::volumes::disk_op;
use ibid_driver::{Class, Disk};
use ibid_engine::point::{ApplyOp, Prove};
use ibid_units::{BLOCK_BYTES, CpId, Mutant, Nanos, SECTOR_BYTES, Span, VolumeId};
use ibid_wire::Crc32c;
use ibid_wire::disk::{Superblock, SyncState};
use ibid_wire::peer::{ChainDigest, CpOpen, RECORD_BYTES, RecordKind};

/// How far the running CP is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CpPhase {
    /// None runs.
    Idle,
    /// Blocks of the out-of-sync map are being read.
    Bringing,
    /// The list is being made.
    Listing,
    /// The volumes of both nodes are being written.
    Applying,
    /// Both have it, or this node goes on alone; the out-of-sync map is being written.
    Mapping,
    /// The superblock is being written.
    Recording,
}

impl<D: Disk> Core<D> {
    /// What consistency points have cost on the link.
    pub(super) fn cp_link_bytes(&self) -> u64 {
        let sent = self.port_counters.tx_bytes;
        sent[Class::Cp as usize] + sent[Class::CatchUp as usize]
    }

    pub(super) fn point_turn(&mut self, now: Nanos) -> bool {
        if now >= self.cp_due {
            self.cp_due = now.after(self.cp_interval);
            // Alone, the log fills its segments: a peer that is back soon finds what it lacks there.
            if !self.is_alone() {
                self.log.seal(now);
            }
        }
        match self.cp_phase {
            CpPhase::Idle => {
                self.want_catch_up(now);
                self.begin_cp(now)
            }
            CpPhase::Bringing => self.bring_step(),
            CpPhase::Listing => {
                self.list_step();
                true
            }
            CpPhase::Applying => self.apply_step(now),
            CpPhase::Mapping => self.map_step(),
            CpPhase::Recording => self.record_step(now),
        }
    }

    pub(super) fn running_cp(&self) -> CpId {
        self.superblock.durable.cp.next()
    }

    /// The segment that the next CP drains, where one is due.
    pub(super) fn drainable(&self) -> Option<CpId> {
        let segment = self.log.drainable()?;
        let due = self.has_epoch()
            && self.fault.is_none()
            // Until then the peer may give back batches of this very segment.
            && self.log.is_open()
            && (!self.is_alone() || self.must_drain());
        due.then_some(segment)
    }

    fn begin_cp(&mut self, now: Nanos) -> bool {
        let Some(segment) = self.drainable() else { return false };
        if !self.superblock.is_idle() || self.between.is_busy() {
            return false;
        }
        self.between.cp_begins();
        assert!(segment == self.running_cp(), "a CP drains the segment with its number");
        self.cp_phase = if self.begin_bring(now) { CpPhase::Bringing } else { CpPhase::Listing };
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
        let Self { lister, log, catch_up, list, arena, layout, .. } = self;
        let staged = layout.catch_up.at;
        let staged_crc = |page: u32, first: u32, sectors: u32| {
            let at = staged + u64::from(page) * BLOCK_BYTES + u64::from(first) * SECTOR_BYTES;
            arena.crc32c(Span::new(at, sectors * SECTOR_BYTES as u32))
        };
        let complete = lister.step(cp, log.dirty_index(cp), &log.pages, catch_up, staged_crc, list);
        self.list_crc.update(&self.list.bytes()[self.hashed * RECORD_BYTES..]);
        for index in self.hashed..self.list.len() {
            let record = self.list.get(index).expect("a record just made");
            self.list_chain.push(&record);
            if let RecordKind::Volume(volume) = record.kind {
                self.list_volume = volume;
            }
            // Nobody asks for a sum before the CP is done.
            self.recent.take(self.list_volume, &record, cp, &self.log.pages);
            match record.kind {
                RecordKind::Reference(_) => {
                    self.cp_sum.references += 1;
                    self.cp_sum.referenced_blocks += u64::from(record.pages());
                }
                RecordKind::Zeroes | RecordKind::Deallocate => self.cp_sum.opcodes += 1,
                RecordKind::Block | RecordKind::Hole | RecordKind::Volume(_) => {}
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
            in_sync: self.ends_in_sync(),
            chain_before,
            chain_after: chain.finish(),
        });
        assert!(
            self.apply.start(cp, &self.list, Prove::References),
            "a list made here is a right one"
        );
        self.blocks.start(self.cp_full, self.catch_up.brought() > 0);
        self.cp_phase = CpPhase::Applying;
    }

    /// Whether the peer lacks nothing with this CP but what needs both logs to be completed: its map ends with what is brought, and of what was
    /// completed alone its log has everything (I1: a mirror that is called in sync holds all that was acknowledged).
    fn ends_in_sync(&self) -> bool {
        (!self.is_out_of_sync() || self.peer_has_log())
            && self.map.blocks() == self.catch_up.brought() as u64
    }

    /// The peer is here, and its log holds every write that was acknowledged.
    fn peer_has_log(&self) -> bool {
        self.peer.is_connected()
            && self.log.durable_there_lsn() >= self.log.committed().max(self.sync.proved)
    }

    fn apply_step(&mut self, now: Nanos) -> bool {
        let mut busy = self.heal_turn(now);
        // After a fault no further write: the log still has everything.
        if self.gate.is_clear() && self.fault.is_none() {
            while let Some(op) = self.apply.next_op(&self.list, &self.log.pages, &self.memory) {
                busy = true;
                match op {
                    ApplyOp::Rotten { .. } => {
                        if !self.heal.take(op) {
                            self.apply.failed();
                        }
                    }
                    ApplyOp::Write { .. }
                    | ApplyOp::Zero { .. }
                    | ApplyOp::Deallocate { .. }
                    | ApplyOp::Flush { .. } => {
                        self.disks.submit(disk_op(&self.geometry, self.apply.cp(), op), Work::Apply)
                    }
                }
            }
            busy |= self.apply.is_paused();
        }
        if self.apply.has_failed() && !self.apply.is_busy() && self.trouble.may_retry(now) {
            self.apply.restart();
            return true;
        }
        // Alone, a CP that is not needed yet waits: its blocks are still in the log, and the peer may come back for them.
        let goes_on = self.peer_has_cp || (self.is_alone() && self.must_drain());
        if self.apply.is_done() && goes_on && self.fault.is_none() && self.heal.ends() {
            if self.peer_has_cp {
                if self.settles {
                    self.catch_up.settle(&mut self.map);
                }
            } else if !Mutant::MapForgotten.is_on() {
                self.map_segment();
            }
            self.cp_phase = CpPhase::Mapping;
            busy = true;
        }
        busy
    }

    /// The peer does not have this CP: every block that it writes is out of sync (MAP-3).
    fn map_segment(&mut self) {
        let mut volume = VolumeId::new(0);
        for index in 0..self.list.len() {
            let record = self.list.get(index).expect("a record of a list made here");
            match record.kind {
                RecordKind::Volume(next) => volume = next,
                RecordKind::Reference(_) | RecordKind::Zeroes | RecordKind::Deallocate => {
                    let blocks = u64::from(record.pages());
                    self.map.set_run(volume, record.first.block(), blocks);
                }
                // They are in the map already, and stay there.
                RecordKind::Block | RecordKind::Hole => {}
            }
        }
    }

    /// The map is durable, then the superblock (MAP-3).
    fn map_step(&mut self) -> bool {
        let mapped = !self.map.is_dirty() && self.map_writer.is_idle();
        if !(mapped || Mutant::MapAfterRecord.is_on())
            || !self.superblock.is_idle()
            || self.fault.is_some()
        {
            return false;
        }
        let open = self.open.expect("an applied CP was opened");
        let peer_has = self.peer_has_cp;
        // Whoever goes on alone is out of sync, even if the peer had this CP before it left (SYNC-1).
        // So is one whose peer lost part of its log since the list was made, or has recorded this CP otherwise; the next CP claims it again.
        let in_sync = peer_has
            && open.in_sync
            && self.map.is_empty()
            && !self.is_alone()
            && self.peer.may_be_in_sync_with(open.cp)
            && (!self.is_out_of_sync() || self.peer_has_log());
        self.superblock.begin(&self.arena, &mut self.disks, |next| {
            next.cp = open.cp;
            next.last_lsn = open.last_lsn;
            next.chain = open.chain_after;
            next.clean = false;
            next.fresh = false;
            match (next.state, peer_has) {
                (SyncState::InSync, true) => {}
                (SyncState::New | SyncState::OutOfSync, true) if in_sync => {
                    next.state = SyncState::InSync;
                    next.whole = false;
                }
                (SyncState::New | SyncState::OutOfSync, true) => {
                    next.whole = false;
                    next.peer_cp = open.cp;
                    next.peer_chain = open.chain_after;
                    next.peer_next_chain = [0; 32];
                }
                (SyncState::New | SyncState::InSync | SyncState::OutOfSync, false) => {
                    assert!(
                        next.state == SyncState::OutOfSync,
                        "SYNC-1: a CP without the peer is recorded by a node that is out of sync"
                    );
                    let follows =
                        next.peer_cp != Superblock::PEER_NONE && next.peer_cp.next() == open.cp;
                    if follows {
                        next.peer_next_chain = open.chain_after;
                    }
                }
            }
        });
        self.cp_phase = CpPhase::Recording;
        true
    }

    fn record_step(&mut self, now: Nanos) -> bool {
        let open = self.open.expect("a CP that is recorded was opened");
        if self.superblock.durable.cp != open.cp && !Mutant::FreedBeforeRecord.is_on() {
            return false;
        }
        self.log.free(open.cp);
        // A read that still waits for a page says so again.
        self.heal.wanted = false;
        self.sync.mirror_mixed &= self.is_out_of_sync();
        self.pace_catch_up(now, self.catch_up.brought() as u64 * BLOCK_BYTES);
        self.trouble.is_over();
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
                link_bytes: self.cp_link_bytes() - link_bytes,
                took: now.since(began),
            };
            // Whoever asked may have given up; nothing depends on the answer.
            drop(reply.try_send(Reply::Cp(answer)));
        }
    }
}
