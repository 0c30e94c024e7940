//! What the durable disks hold, as a whole: both volumes against each other, and each node as if it had to start alone.
//! * I1, I2  a node that starts from what its disk holds has every acknowledged write, each write whole or not at all.
//! * I15 a destination that never met a source has not been written to.
//! * I22 two volumes differ in nothing but what the source's durable log and, where it is out of sync, its durable map name.

use crate::disk::MemDisk;
use crate::random::Random;
use crate::{DESTINATION, SOURCE, World, arenas};
use ibid_driver::Arena;
use ibid_engine::log::{LogGeometry, RecoveredLog};
use ibid_engine::sync::OutOfSync;
use ibid_runtime::{Role, Turn, Unrecovered};
use ibid_units::{CpId, LogBlock, Nanos, VolumeId};
use ibid_wire::disk::{Batch, Entry, EntryKind, SEGMENTS_AT, SegmentHeader, Superblock, SyncState};
use std::cell::RefCell;
use std::rc::Rc;

/// So many looks of a run are taken; then one in so many.
const LOOKS: u64 = 8;
const LOOK_EVERY: u64 = 16;

/// Looks at disks.
pub struct Images {
    random: Random,
    looks: u64,
    /// Nodes whose log has rotted: alone they have not everything.
    pub rotten: [bool; 2],
    pub recovered: u64,
}

impl Images {
    pub fn new(seed: u64) -> Images {
        Images { random: Random::new(seed ^ 0x1A6E), looks: 0, rotten: [false; 2], recovered: 0 }
    }

    /// Something that counts has become durable: is what differs between the volumes named? (I22)
    pub fn look(
        &mut self,
        world: &World,
        source: Option<Superblock>,
        destination: Option<Superblock>,
    ) {
        self.looks += 1;
        if self.looks > LOOKS && !self.looks.is_multiple_of(LOOK_EVERY) {
            return;
        }
        let (Some(source), Some(destination)) = (source, destination) else { return };
        // Of volumes that no source has met nothing is known; a rotten log names too little.
        if destination.state == SyncState::New || self.rotten[SOURCE] {
            return;
        }
        let out = source.state == SyncState::OutOfSync;
        // A peer that holds nothing of use is caught up from a map of everything, which is made when that is found.
        if out && source.peer_cp == Superblock::PEER_NONE && !source.whole && !destination.fresh {
            return;
        }
        let named = Named::new(world, &source, out);
        let files = [SOURCE, DESTINATION].map(|side| world.files[side].borrow());
        for volume in 0..world.config.volumes.len() {
            let [one, two] = [&files[0], &files[1]].map(|files| files.durable(volume + 1));
            if one == two {
                continue;
            }
            for (block, (one, two)) in (0u64..).zip(one.chunks(4096).zip(two.chunks(4096))) {
                assert!(
                    one == two || named.has(volume, block),
                    "I22: block {block} of volume {volume} differs and is named neither by the map nor by the log; source {source:?}, destination {destination:?}"
                );
            }
        }
    }

    /// A node's machine loses power, in thought: what it starts from has everything that was acknowledged (I1, I2).
    pub fn recover(&mut self, world: &World, side: usize, both: [Option<Superblock>; 2]) {
        let [Some(source), Some(destination)] = both else { return };
        let in_sync = source.state == SyncState::InSync && destination.state == SyncState::InSync;
        if self.rotten[side]
            || (side == DESTINATION && !in_sync)
            || world.recovering[side].is_some()
        {
            return;
        }
        self.recovered += 1;
        let mut files = world.files[side].borrow().fork(self.random.fork());
        files.power_cut(&world.arenas[side]);
        let role = if side == SOURCE { Role::Source } else { Role::Destination };
        let layout = world.config.layout(role);
        let arena = arenas::take(layout.bytes());
        let node = world.config.node(0);
        let files = Rc::new(RefCell::new(files));
        let disk = MemDisk { files: files.clone(), arena: arena.clone() };
        let pages = node.map(role).pages();
        let mut unrecovered =
            Unrecovered::new(disk, layout, arena.clone(), node.superblock(role), pages);
        let found = loop {
            match unrecovered.turn(&mut |_, _| {}) {
                Ok(Turn::Done) => break unrecovered.finish(),
                Ok(Turn::Busy | Turn::Idle) => {
                    let mut files = files.borrow_mut();
                    files.now = files.now.after(Nanos::from_micros(10));
                }
                Err(refused) => {
                    panic!("I2: side {side} would not start from what its disk holds: {refused}")
                }
            }
        };
        nothing_void(&found.superblock, &found.log);
        let mut volumes: Vec<Vec<u8>> = (0..world.config.volumes.len())
            .map(|volume| files.borrow().durable(volume + 1).to_vec())
            .collect();
        overlay(&layout.log, &arena, &found.log, &mut volumes);
        for (volume, bytes) in volumes.iter().enumerate() {
            world.model.check_image(volume, bytes);
        }
        drop(found);
        arenas::give(arena);
    }
}

/// Of earlier epochs than that in which the log was opened no more is recovered than was agreed on then (REC-2).
pub(crate) fn nothing_void(superblock: &Superblock, log: &RecoveredLog) {
    for found in &log.segments {
        assert!(
            found.epoch >= superblock.opened || found.last_lsn <= superblock.agreed,
            "REC-2: {found:?} is recovered; entries before {:?} count up to {}",
            superblock.opened,
            superblock.agreed
        );
    }
}

/// Applies what a recovered log holds.
fn overlay(geometry: &LogGeometry, arena: &Arena, log: &RecoveredLog, volumes: &mut [Vec<u8>]) {
    for segment in &log.segments {
        for index in 0..segment.batches {
            let block = geometry.batch_block(index);
            let bytes = arena.bytes(geometry.span(segment.segment, block, 1)).to_vec();
            let batch = Batch::parse(&bytes).expect("a recovered batch checks");
            for (entry, _) in batch.entries() {
                let Entry { volume, kind, first, page, pages, sectors } = entry;
                let into = &mut volumes[usize::from(volume.get())][first.bytes() as usize..]
                    [..sectors.bytes() as usize];
                if kind == EntryKind::Write {
                    let whole = geometry.span(segment.segment, page, u32::from(pages));
                    let offset = first.in_block() as usize * 512;
                    into.copy_from_slice(&arena.bytes(whole)[offset..][..into.len()]);
                } else {
                    into.fill(0);
                }
            }
        }
    }
}

/// Blocks that the source's durable disk says may differ.
struct Named {
    map: OutOfSync,
}

impl Named {
    fn new(world: &World, superblock: &Superblock, out: bool) -> Named {
        let node = world.config.node(0);
        let geometry = world.config.layout(Role::Source).log;
        let mut map = node.map(Role::Source);
        let files = world.files[SOURCE].borrow();
        let log = files.durable(0);
        if out {
            for page in 0..map.pages() {
                let at = geometry.map_at() as usize + page as usize * 4096;
                map.load(page, node.pair, &log[at..at + 4096]);
            }
        }
        for slot in 0..geometry.segments {
            name_slot(&geometry, log, slot, superblock.cp, &mut map);
        }
        Named { map }
    }

    fn has(&self, volume: usize, block: u64) -> bool {
        self.map.contains(VolumeId::new(volume as u16), block)
    }
}

/// Adds what a slot's segment writes, where that is not in the volumes by `cp`.
fn name_slot(geometry: &LogGeometry, log: &[u8], slot: u32, cp: CpId, map: &mut OutOfSync) {
    let start = SEGMENTS_AT as usize + slot as usize * geometry.segment_bytes() as usize;
    let block = |block: LogBlock| &log[start + block.get() as usize * 4096..][..4096];
    let Ok(header) = SegmentHeader::parse(block(LogBlock::new(0))) else { return };
    if header.segment <= cp {
        return;
    }
    for index in 0..geometry.segment_blocks {
        let Ok(batch) = Batch::parse(block(geometry.batch_block(index))) else { return };
        if batch.header.segment != header.segment || batch.header.epoch != header.epoch {
            return;
        }
        for (entry, _) in batch.entries() {
            map.set_run(
                entry.volume,
                entry.first.block(),
                u64::from(entry.sectors.blocks_from(entry.first)),
            );
        }
    }
}
