//! What must hold of the durable images, checked whenever they change: it reads the log devices as recovery would and believes no node.
//! * I1  what is acknowledged was found, checked and whole, in the durable log of both nodes before; of the source alone only while that went on
//!   alone.
//! * I3  what a read shows was found in the durable log of both nodes, where the source never goes on alone.
//! * I7  a slot is used again only when its segment is in the volumes by the durable superblock of that node.
//! * I8  the source records a CP that both have after the destination has recorded it.
//! * I12 the durable epoch never falls, nor does the CP, on any one device; the destination's is one that the source has recorded.
//! * I14 a source is alone only while its durable superblock says that it is out of sync.
//!
//! What both durable disks hold, volumes too, is looked at in `images`.

use crate::config::WorldConfig;
use crate::images::Images;
use crate::model::Write;
use crate::random::Random;
use crate::trace::Event;
use crate::world::superblocks;
use crate::{DESTINATION, SOURCE, TheDestination, TheSource, World};
use ibid_driver::checksum::crc32c;
use ibid_runtime::PeerLoss;
use ibid_units::{CpId, Epoch, LogBlock, Lsn, Span};
use ibid_wire::disk::{Batch, EntryKind, SEGMENTS_AT, SegmentHeader, Superblock, SyncState};
use std::collections::BTreeMap;

/// Of so many acknowledgements one has the whole durable logs read again.
const DEEP_EVERY: u64 = 200;
/// Of so many one has both nodes recovered alone.
const IMAGE_EVERY: u64 = 150;

/// What is known when a write is sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// The newest entry in the source's durable log.
    newest: u64,
    step: u64,
}

/// A run of zeroes or a deallocation: volume, first sector, sectors.
type Run = (u16, u64, u32);

/// A slot of a durable log, as far as it was read.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// `None` where no header checks.
    header: Option<SegmentHeader>,
    /// The next batch to be found, and the checksum it must name.
    index: u32,
    previous: u32,
    next_lsn: u64,
}

/// What one node's durable log was seen to hold.
struct Shadow {
    side: usize,
    blocks: u32,
    slots: Vec<Slot>,
    /// For each write the segment it was found in; 0: in none yet, or in one that this node was told to drop.
    writes: Vec<u64>,
    /// For each write whether it was ever found.
    ever: Vec<bool>,
    /// The newest CP that this node ever recorded, on any device.
    cp_ever: u64,
    /// For each run of zeroes the newest entry.
    zeroes: BTreeMap<Run, u64>,
    newest: u64,
    superblock: Option<Superblock>,
}

impl Shadow {
    fn new(side: usize, config: &WorldConfig) -> Shadow {
        Shadow {
            side,
            blocks: config.segment_blocks,
            slots: vec![Slot::default(); config.segments as usize],
            writes: Vec::new(),
            ever: Vec::new(),
            cp_ever: 0,
            zeroes: BTreeMap::new(),
            newest: 0,
            superblock: None,
        }
    }

    fn slot_bytes(&self) -> usize {
        self.blocks as usize * 4096
    }

    fn cp(&self) -> u64 {
        self.superblock.map_or(0, |superblock| superblock.cp.get())
    }

    /// Reads on in a slot that has changed. Gives the segment that was there before, if it is not there any more.
    fn read_slot(&mut self, log: &[u8], at: usize) -> Option<CpId> {
        let start = SEGMENTS_AT as usize + at * self.slot_bytes();
        let block = |block: u32| &log[start + block as usize * 4096..][..4096];
        let header = SegmentHeader::parse(block(0)).ok();
        let old = self.slots[at].header;
        let mut replaced = None;
        if header != old {
            replaced = old
                // A header that checks no more has rotted.
                .filter(|old| header.is_some_and(|new| new.segment != old.segment))
                .map(|old| old.segment);
            let next_lsn = header.map_or(0, |header| header.first_lsn.get());
            self.slots[at] = Slot { header, index: 0, previous: 0, next_lsn };
        }
        let Some(header) = header else { return replaced };
        loop {
            let Slot { index, previous, next_lsn, .. } = self.slots[at];
            if index >= self.blocks {
                return replaced;
            }
            let place = self.blocks - 1 - index;
            let Ok(batch) = Batch::parse(block(place)) else { return replaced };
            let found = batch.header;
            let follows = found.segment == header.segment
                && found.epoch == header.epoch
                && found.block == LogBlock::new(place)
                && found.index == index
                && found.previous == previous
                && found.first_lsn.get() == next_lsn;
            if !follows || !pages_check(&batch, &block) {
                return replaced;
            }
            let mut lsn = next_lsn;
            for (entry, _) in batch.entries() {
                let run = (entry.volume.get(), entry.first.get(), entry.sectors.get());
                if entry.kind == EntryKind::Write {
                    let (from, _) = entry.page_part(0);
                    let bytes = &block(entry.page.get())[from as usize * 512..][..4];
                    let write = u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize;
                    if self.writes.len() <= write {
                        self.writes.resize(write + 1, 0);
                        self.ever.resize(write + 1, false);
                    }
                    self.ever[write] = true;
                    self.writes[write] = header.segment.get();
                } else {
                    let newest = self.zeroes.entry(run).or_default();
                    *newest = lsn.max(*newest);
                }
                lsn += 1;
            }
            self.newest = self.newest.max(lsn - 1);
            let slot = &mut self.slots[at];
            *slot = Slot { index: index + 1, previous: batch.crc, next_lsn: lsn, ..*slot };
        }
    }

    /// Its log is gone: dropped on order, or with its device.
    fn forget(&mut self) {
        self.writes.fill(0);
    }

    fn read_superblock(&mut self, log: &[u8]) -> Option<Superblock> {
        let newest = superblocks(log).into_iter().flatten().max_by_key(|found| found.sequence);
        let Some(newest) = newest else {
            assert!(self.superblock.is_none(), "one of the two superblocks checks at any time");
            return None;
        };
        self.cp_ever = self.cp_ever.max(newest.cp.get());
        self.superblock.replace(newest).filter(|old| *old != newest)
    }
}

fn pages_check<'a>(batch: &Batch<'_>, block: &impl Fn(u32) -> &'a [u8]) -> bool {
    batch.entries().all(|(entry, crcs)| {
        (0..entry.pages).all(|page| {
            let (from, count) = entry.page_part(page);
            let whole = block(entry.page.get() + u32::from(page));
            crc32c(&whole[from as usize * 512..][..count as usize * 512]) == crcs.get(page)
        })
    })
}

/// Watches both durable log devices.
pub struct Oracle {
    shadows: [Shadow; 2],
    to_disk: bool,
    changed: Vec<(usize, usize)>,
    acknowledged: u64,
    /// Writes that were.
    acked: Vec<bool>,
    refused: Vec<Write>,
    /// The newest step in which the source was alone.
    alone_at: u64,
    /// The step in which the source opened its log, and the entry it goes on after.
    opened: (u64, u64),
    /// The newest entry that the destination holds, as it sees itself.
    held: Lsn,
    images: Images,
}

impl Oracle {
    pub fn new(world: &World) -> Oracle {
        let mut shadows = [SOURCE, DESTINATION].map(|side| Shadow::new(side, &world.config));
        for shadow in &mut shadows {
            let mut files = world.files[shadow.side].borrow_mut();
            files.watch();
            shadow.read_superblock(files.durable(0));
            // What the volumes hold from the start is in no log.
            let there = world.model.newest() as usize + 1;
            shadow.writes.resize(there, 0);
            shadow.ever.resize(there, true);
        }
        Oracle {
            shadows,
            to_disk: world.config.to_disk,
            changed: Vec::new(),
            acknowledged: 0,
            acked: Vec::new(),
            refused: Vec::new(),
            alone_at: 0,
            opened: (0, 0),
            held: Lsn::new(0),
            images: Images::new(world.config.seed),
        }
    }

    /// What is known now, for a write that is sent.
    pub fn stamp(&self, world: &World) -> Sent {
        Sent { newest: self.shadows[SOURCE].newest, step: world.steps }
    }

    /// The superblock that counts on a node's durable disk.
    pub fn superblock(&self, side: usize) -> Option<Superblock> {
        self.shadows[side].superblock
    }

    /// The destination's durable log goes as far as the source's.
    pub fn is_level(&self) -> bool {
        self.shadows[DESTINATION].newest >= self.shadows[SOURCE].newest
    }

    /// The destination's durable log holds entries that the source's does not.
    pub fn is_destination_ahead(&self) -> bool {
        let [source, destination] = &self.shadows;
        destination.newest > source.newest
    }

    /// Bytes of a node's log have rotted: its image alone is not whole any more.
    pub fn rotten(&mut self, side: usize) {
        self.images.rotten[side] = true;
    }

    /// A node has another disk.
    pub fn replaced(&mut self, world: &World, side: usize) {
        let shadow = &mut self.shadows[side];
        shadow.forget();
        shadow.superblock = None;
        shadow.slots.fill(Slot::default());
        // What was noted of the old one says nothing.
        world.files[side].borrow_mut().take_changed(&mut self.changed);
        self.changed.clear();
    }

    /// A page of the log, as bytes of the arena, that `side` holds durably and that no CP of its has drained; at the destination one that the
    /// source holds as well.
    pub fn safe_page(&self, world: &World, side: usize, random: &mut Random) -> Option<Span> {
        let cp = self.shadows[side].cp();
        let at = random.below(self.shadows[side].slots.len() as u64) as usize;
        let [source, own] = [SOURCE, side].map(|side| self.shadows[side].slots[at]);
        let header = own.header.filter(|_| own.header == source.header)?;
        let batches = own.index.min(source.index);
        // What the next CP writes may have been checked already, and wait for the device.
        if header.segment.get() <= cp + 1 || batches == 0 {
            return None;
        }
        let blocks = self.shadows[side].blocks;
        let start = at * self.shadows[side].slot_bytes();
        let place = blocks - 1 - random.below(u64::from(batches)) as u32;
        let files = world.files[side].borrow();
        let log = &files.durable(0)[SEGMENTS_AT as usize + start..];
        let batch = Batch::parse(&log[place as usize * 4096..][..4096]).ok()?;
        let entries: Vec<_> = batch.entries().filter(|(entry, _)| entry.pages > 0).collect();
        if entries.is_empty() {
            return None;
        }
        let entry = entries[random.below(entries.len() as u64) as usize].0;
        let page = random.below(u64::from(entry.pages)) as u32;
        let (first, count) = entry.page_part(page as u16);
        let at = start as u64 + u64::from(entry.page.get() + page) * 4096 + u64::from(first) * 512;
        Some(Span::new(at, count * 512))
    }

    /// Looks at what has become durable. The destination first: of one step its part of a CP comes before the source's.
    pub fn turn(&mut self, world: &mut World) {
        if world.source.as_ref().is_some_and(TheSource::is_alone) {
            self.alone_at = world.steps;
            let state = self.shadows[SOURCE].superblock.map(|found| found.state);
            assert!(
                state == Some(SyncState::OutOfSync),
                "I14: the source is alone, and its superblock says {state:?}"
            );
        }
        let mut look = false;
        for side in [DESTINATION, SOURCE] {
            let files = world.files[side].clone();
            files.borrow_mut().take_changed(&mut self.changed);
            if self.changed.is_empty() {
                continue;
            }
            let files = files.borrow();
            let log = files.durable(0);
            let shadow = &mut self.shadows[side];
            let mut dirty = 0u64;
            let mut superblock = false;
            let log_end = SEGMENTS_AT as usize + shadow.slots.len() * shadow.slot_bytes();
            for (at, bytes) in &self.changed {
                if *at < SEGMENTS_AT as usize {
                    superblock = true;
                    continue;
                }
                if *at >= log_end {
                    look = true;
                    continue;
                }
                let first = (at - SEGMENTS_AT as usize) / shadow.slot_bytes();
                let last = (at + bytes - 1 - SEGMENTS_AT as usize) / shadow.slot_bytes();
                for slot in first..=last.min(shadow.slots.len() - 1) {
                    dirty |= 1 << slot;
                }
            }
            if superblock && let Some(old) = shadow.read_superblock(log) {
                look = true;
                self.superblock_changed(world, side, &old);
            }
            let shadow = &mut self.shadows[side];
            for slot in (0..shadow.slots.len()).filter(|slot| dirty >> slot & 1 == 1) {
                if let Some(segment) = shadow.read_slot(log, slot) {
                    world.trace.event(side, Event::Reused, segment.get());
                    assert!(
                        segment.get() <= shadow.cp(),
                        "I7: side {side} uses the slot of segment {segment} again at CP {}",
                        shadow.cp()
                    );
                }
            }
        }
        self.held = world.destination.as_ref().map_or(self.held, TheDestination::durable);
        if let Some(source) = self.shadows[SOURCE].superblock {
            let newest = self.shadows[SOURCE].newest.max(source.last_lsn.get());
            assert!(
                source.agreed.get() <= newest,
                "SYNC-2: the source agreed on entries up to {}, its durable log had {newest}",
                source.agreed
            );
        }
        if look {
            let [source, destination] =
                [SOURCE, DESTINATION].map(|side| self.shadows[side].superblock);
            self.images.look(world, source, destination);
        }
    }

    fn superblock_changed(&mut self, world: &mut World, side: usize, old: &Superblock) {
        let new = self.shadows[side].superblock.expect("it has just been read");
        let (epoch, cp): (Epoch, CpId) = (new.epoch, new.cp);
        assert!(epoch >= old.epoch, "I12: the epoch of side {side} falls to {epoch}");
        assert!(cp >= old.cp, "I12: the CP of side {side} falls to {cp}");
        let source = self.shadows[SOURCE].superblock.map_or(epoch, |source| source.epoch);
        assert!(
            epoch <= source,
            "I12: the destination knows epoch {epoch}, the source has recorded {source}"
        );
        if epoch > old.epoch {
            world.trace.event(side, Event::EpochRecorded, epoch.get());
        }
        if new.state != old.state {
            world.trace.event(
                side,
                if new.state == SyncState::InSync { Event::InSync } else { Event::OutOfSync },
                cp.get(),
            );
        }
        if side == DESTINATION && new.opened > old.opened && cp == old.cp {
            self.void_is_gone(world, &new);
        }
        if side == SOURCE && new.opened > old.opened {
            world.model.settled();
            // What was seen above, in slots of their own, is void.
            let agreed = new.agreed.get();
            self.opened = (world.steps, agreed);
            self.shadows[SOURCE].newest = agreed;
            for shadow in &mut self.shadows {
                shadow.zeroes.retain(|_, lsn| *lsn <= agreed);
            }
        }
        if side == DESTINATION && new.state == SyncState::OutOfSync && cp > old.cp {
            // It may have adopted this CP and dropped its log.
            self.shadows[DESTINATION].forget();
        }
        let there = self.shadows[DESTINATION].cp_ever;
        if cp > old.cp {
            world.trace.event(side, Event::CpRecorded, cp.get());
            let known = new.peer_cp != Superblock::PEER_NONE;
            if side == SOURCE && new.state == SyncState::OutOfSync && !(known && new.peer_cp == cp)
            {
                world.trace.event(side, Event::CpAlone, cp.get());
            } else {
                assert!(
                    side == DESTINATION || cp.get() <= there,
                    "I8: the source records CP {cp}, the destination is at {there}"
                );
            }
        }
        if side == SOURCE && new.state == SyncState::InSync && old.state != SyncState::InSync {
            let peer = self.shadows[DESTINATION].superblock.map(|found| found.state);
            assert!(
                peer.is_none_or(|state| state != SyncState::OutOfSync),
                "I8: the source records that it is in sync, the destination is {peer:?}"
            );
        }
    }

    /// What a meeting has made void is not whole on the destination's device any more: a higher `agreed` must not bring it back.
    fn void_is_gone(&self, world: &World, new: &Superblock) {
        // What lies behind the gap of a torn tail is not counted, and was not held.
        if new.state != SyncState::InSync || self.held <= new.agreed {
            return;
        }
        let files = world.files[DESTINATION].borrow();
        let mut fresh = Shadow::new(DESTINATION, &world.config);
        for slot in 0..fresh.slots.len() {
            fresh.read_slot(files.durable(0), slot);
        }
        // Where a segment of the newer epoch begins, those of older ones end whatever is agreed on later.
        let begins = |slot: &Slot| {
            slot.header.is_some_and(|header| {
                header.epoch >= new.opened && header.first_lsn == new.agreed.next()
            })
        };
        if fresh.slots.iter().any(begins) {
            return;
        }
        for Slot { header, next_lsn, .. } in &fresh.slots {
            // Of a segment that begins later nothing follows what counts.
            let counts = |header: &SegmentHeader| {
                header.segment > new.cp && header.first_lsn <= new.agreed.next()
            };
            let Some(header) = header.filter(counts) else { continue };
            assert!(
                header.epoch >= new.opened || *next_lsn <= new.agreed.get() + 1,
                "MEET-2: void entries of segment {} up to {} are whole in the durable log of the destination, which counts those up to {}",
                header.segment,
                next_lsn - 1,
                new.agreed
            );
        }
    }

    /// A write is acknowledged: both durable logs must hold it, or the source's if that was alone since the write was sent.
    pub fn acknowledged(&mut self, world: &mut World, write: Write, sent: Sent) {
        if !self.to_disk {
            return;
        }
        self.turn(world);
        let line = world.model.line(write);
        if self.acked.len() <= write as usize {
            self.acked.resize(write as usize + 1, false);
        }
        self.acked[write as usize] = true;
        let (opened, agreed) = self.opened;
        let newest = if sent.step <= opened { sent.newest.min(agreed) } else { sent.newest };
        for shadow in &self.shadows {
            let holds = if line.zeroes {
                let run = (line.volume as u16, line.first, line.sectors as u32);
                shadow.zeroes.get(&run).is_some_and(|lsn| *lsn > newest)
            } else {
                shadow.ever.get(write as usize) == Some(&true)
            };
            let alone = shadow.side == DESTINATION && self.alone_at >= sent.step;
            assert!(
                holds || alone,
                "I1: write {write} ({line:?}) is acknowledged and was never whole in the durable log of side {}, {sent:?}, alone at {}",
                shadow.side,
                self.alone_at
            );
        }
        self.acknowledged += 1;
        if self.acknowledged.is_multiple_of(DEEP_EVERY) {
            self.deep(world);
        }
        if self.acknowledged.is_multiple_of(IMAGE_EVERY) {
            self.image(world, SOURCE);
            self.image(world, DESTINATION);
        }
    }

    /// A write was refused for good: neither durable log has it, nor ever had.
    pub fn never(&mut self, world: &mut World, write: Write) {
        self.turn(world);
        for shadow in &self.shadows {
            assert!(
                shadow.ever.get(write as usize) != Some(&true),
                "FUSE-3: write {write} was refused, and is in the durable log of side {}",
                shadow.side
            );
        }
        self.refused.push(write);
    }

    /// A read shows these writes: no single loss takes them away again, for both nodes have them (I3). What the source may have completed
    /// alone is its to show.
    pub fn seen(&mut self, world: &mut World, writes: &[Option<Write>]) {
        self.turn(world);
        let [source, destination] = &self.shadows;
        let in_sync = source.superblock.is_some_and(|found| found.state == SyncState::InSync);
        if !self.to_disk || !in_sync || world.config.peer_loss == PeerLoss::Continue {
            return;
        }
        for write in writes.iter().flatten() {
            let is_in = |shadow: &Shadow| shadow.ever.get(*write as usize) == Some(&true);
            let drained = source.writes.get(*write as usize).is_some_and(|at| *at <= source.cp());
            assert!(
                is_in(source) && (is_in(destination) || drained),
                "I3: a read shows write {write}, which was never whole in the durable log of both nodes"
            );
        }
    }

    /// What this node would have, were its machine to lose power now and the other one to be gone: all that was acknowledged (I1, I2).
    pub fn image(&mut self, world: &World, side: usize) {
        let both = [SOURCE, DESTINATION].map(|side| self.shadows[side].superblock);
        self.images.recover(world, side, both);
    }

    /// Reads both logs from scratch: what was found there once is there still, or in the volumes; what was refused never came.
    pub fn deep(&self, world: &World) {
        for shadow in &self.shadows {
            let came = |write: &&Write| shadow.ever.get(**write as usize) == Some(&true);
            assert!(
                self.refused.iter().find(came).is_none(),
                "FUSE-3: a write that was refused is in the durable log of side {}",
                shadow.side
            );
            let files = world.files[shadow.side].borrow();
            let mut fresh = Shadow::new(shadow.side, &world.config);
            for slot in 0..fresh.slots.len() {
                fresh.read_slot(files.durable(0), slot);
            }
            for (write, segment) in shadow.writes.iter().enumerate() {
                let there = fresh.writes.get(write).is_some_and(|found| found == segment);
                let acked = self.acked.get(write) == Some(&true);
                assert!(
                    *segment <= shadow.cp() || there || !acked || self.images.rotten[shadow.side],
                    "I7: write {write} of segment {segment} has gone from the durable log of side {}",
                    shadow.side
                );
            }
        }
    }
}
