//! The source's log as a crash left it: closed segments with the entries that recovery found, and batches that the peer holds beyond them. They
//! drain by ordinary CPs.

use super::*;
use crate::log::check::{self, Due, last_of, nodes_of, pages_of, part_span};
use crate::log::{MirrorFault, RecoveredLog};
use ibid_wire::disk::Batch;

/// Why a batch from the peer was not taken into the log. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdoptRefused {
    /// It does not check, or does not follow.
    #[error(transparent)]
    Fault(#[from] MirrorFault),
    /// The segment's slot still holds another.
    #[error("no slot is free for the segment")]
    NoSlot,
}

impl SourceLog {
    /// The log that recovery found, which goes on after its last segment. Entries up to `log.committed` are readable at once; those above
    /// wait for the peer like any other, first in line, with [`TOKEN_NONE`] and beside `config.entries_max`. All of it is durable here: whoever
    /// scanned the device has flushed it since. `config.cp` and `config.last_lsn` are the log's; `memory` is as the scan left it.
    pub fn recovered(config: SourceLogConfig, log: &RecoveredLog, memory: &impl Memory) -> Self {
        assert!(
            (config.cp, config.last_lsn) == (log.cp, log.last_lsn),
            "a recovered log goes on after its own CP"
        );
        let opened = config.opened;
        let mut recovered = Self::new(SourceLogConfig { opened: false, ..config });
        let committed =
            if Mutant::UndecidedRead.is_on() { log.end } else { log.committed.min(log.end) };
        let uncommitted = (log.end.get() - committed.get()) as usize;
        recovered.entries = VecDeque::with_capacity(config.entries_max + uncommitted);
        for found in &log.segments {
            recovered.take_recovered(found.segment, found.epoch);
            for index in 0..found.batches {
                let block = recovered.geometry().batch_block(index);
                let span = recovered.geometry().span(found.segment, block, 1);
                memory.read(span, |bytes| {
                    let batch = Batch::parse(bytes).expect("a recovered batch was checked");
                    recovered.take_batch(found.segment, &batch, committed);
                });
            }
            let last = recovered.batched;
            assert!(last == found.last_lsn, "LOG-6: {last} recovered, {} found", found.last_lsn);
        }
        assert!(recovered.batched == log.end, "LOG-6: recovered entries reach to the log's end");
        recovered.durable_here = log.end;
        if opened {
            recovered.open_log();
        }
        recovered
    }

    /// Takes a batch that the peer holds beyond this log's end, before the log is open. Its block, block 0 for the first of a segment, and all its
    /// pages are in memory at their places. It becomes the next batch of the last recovered segment, or the first of a later one (those between
    /// are empty then). It counts as durable here when the caller has persisted it and says so. The queue of entries is made for what an earlier
    /// self could have had under way; more than that takes memory.
    ///
    /// # Panics
    /// If the log is open.
    pub fn adopt_batch(
        &mut self,
        memory: &impl Memory,
        segment: CpId,
        volume_sectors: &[u64],
    ) -> Result<ClosedBatch, AdoptRefused> {
        assert!(!self.opened, "LOG-6: batches are taken from the peer before the log is open");
        let newest = CpId::new(self.next_segment.get() - 1);
        let geometry = self.config.geometry;
        let begins = segment >= self.next_segment;
        if segment < self.oldest || segment < newest {
            return Err(MirrorFault::Order.into());
        }
        // An empty segment has no writer.
        let newest_epoch = (self.oldest.get()..self.next_segment.get())
            .rev()
            .map(|segment| self.slot(CpId::new(segment)))
            .find(|slot| slot.batches > 0)
            .map(|slot| slot.epoch);
        let (epoch, index, previous) = if begins {
            // The slots of the segment and of the empty ones before it.
            let end = self.oldest.get() + u64::from(geometry.segments);
            let free = (self.next_segment.get()..=segment.get().min(end)).all(|next| {
                let slot = &self.slots[geometry.slot(CpId::new(next))];
                next < end && slot.state == SlotState::Free && slot.pins == 0
            });
            if !free {
                return Err(AdoptRefused::NoSlot);
            }
            let header = memory
                .read(geometry.span(segment, LogBlock::new(0), 1), SegmentHeader::parse)
                .map_err(|_| MirrorFault::Structure)?;
            let follows = check::header_fits(&header, geometry, segment, self.config.pair)
                && header.first_lsn == self.batched.next()
                && header.epoch < self.config.epoch
                && newest_epoch.is_none_or(|newest| header.epoch >= newest);
            if !follows {
                return Err(MirrorFault::Order.into());
            }
            (header.epoch, 0, 0)
        } else {
            let slot = self.slot(segment);
            // A segment that is empty has no writer whose batches could follow.
            if slot.batches == 0 {
                return Err(MirrorFault::Order.into());
            }
            (slot.epoch, slot.batches, slot.previous)
        };
        if index + 1 >= geometry.segment_blocks {
            return Err(MirrorFault::Order.into());
        }
        let first_lsn = self.batched.next();
        let due = Due { geometry, volume_sectors, segment, epoch, index, previous, first_lsn };
        let block = geometry.batch_block(index);
        memory.read(geometry.span(segment, block, 1), |bytes| {
            let batch = due.batch(bytes)?;
            let room = match begins {
                true => nodes_max(geometry.segment_blocks),
                false => {
                    let slot = self.slot(segment);
                    slot.index.room() - slot.nodes_promised
                }
            };
            if batch.entries().map(|(entry, _)| nodes_of(&entry) as usize).sum::<usize>() > room {
                return Err(MirrorFault::Structure.into());
            }
            let matches =
                |(page, part, crc)| memory.crc32c(part_span(geometry, segment, page, part)) == crc;
            if !pages_of(&batch).all(matches) {
                return Err(MirrorFault::Page.into());
            }
            while self.next_segment <= segment {
                self.take_recovered(self.next_segment, epoch);
            }
            self.take_batch(segment, &batch, self.committed);
            Ok(ClosedBatch { segment, block, with_header: index == 0, last: self.batched })
        })
    }

    /// True where a run touches an entry that recovery found and that is not committed yet: whether it is part of the volume is not decided.
    pub fn overlaps_uncommitted_recovered(
        &self,
        volume: VolumeId,
        first: Sector,
        sectors: Sectors,
    ) -> bool {
        let end = first + sectors;
        self.entries.iter().take_while(|logged| logged.token == TOKEN_NONE).any(|logged| {
            let entry = &logged.entry;
            entry.volume == volume && entry.first < end && first < entry.first + entry.sectors
        })
    }

    /// True while an entry that recovery found is not committed.
    pub fn has_uncommitted_recovered(&self) -> bool {
        self.entries.front().is_some_and(|logged| logged.token == TOKEN_NONE)
    }

    /// The next segment becomes a closed one, empty so far.
    fn take_recovered(&mut self, segment: CpId, epoch: Epoch) {
        assert!(segment == self.next_segment, "LOG-6: segments are recovered in order");
        self.take_slot();
        assert!(self.open.take() == Some(segment), "LOG-6: a recovered segment has its slot");
        let last = self.batched;
        let slot = self.slot_mut(segment);
        slot.state = SlotState::Closed;
        slot.epoch = epoch;
        slot.last_lsn = last;
        self.appending = self.next_segment;
    }

    /// A batch that was checked becomes the last of a recovered segment.
    fn take_batch(&mut self, segment: CpId, batch: &Batch<'_>, committed: Lsn) {
        for (page, part, crc) in pages_of(batch) {
            self.pages.set(segment, page, part, crc);
        }
        let first = batch.header.first_lsn;
        assert!(first == self.batched.next(), "LOG-6: {first} after {}", self.batched);
        for (n, (entry, _)) in batch.entries().enumerate() {
            let nodes = nodes_of(&entry);
            let slot = self.slot_mut(segment);
            if first.plus(n as u64) <= committed {
                slot.insert(&entry, nodes);
                self.committed = first.plus(n as u64);
            } else {
                slot.nodes_promised += nodes as usize;
                let arrived = Nanos::ZERO;
                self.entries.push_back(Logged {
                    token: TOKEN_NONE,
                    segment,
                    entry,
                    nodes,
                    arrived,
                });
            }
        }
        let last = last_of(batch);
        let slot = self.slot_mut(segment);
        slot.batches += 1;
        slot.previous = batch.crc;
        if batch.header.index == 0 {
            slot.first_lsn = first;
        }
        (slot.batched_lsn, slot.last_lsn) = (last, last);
        (self.batched, self.next_lsn) = (last, last.next());
    }
}
