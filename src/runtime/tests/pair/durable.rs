//! I1: what was completed lies in the durable image of both logs at that instant, descriptor and pages.

use crate::WRITES;
use ibid_driver::checksum::crc32c;
use ibid_sim::load::{Load, LoadConfig};
use ibid_sim::model::Write;
use ibid_sim::{World, WorldConfig};
use ibid_units::{LogBlock, Nanos};
use ibid_wire::disk::{Batch, EntryKind, SEGMENTS_AT, SegmentHeader};

/// True where a log device's bytes hold the write: an entry of that run in a chain of batches that checks, with pages whose sums are
/// right and whose bytes are the write's.
fn holds(world: &World, side: usize, write: Write) -> bool {
    let files = world.files[side].borrow();
    let log = files.durable(0);
    let blocks = world.config.segment_blocks;
    let (volume, first, content) = world.model.content(write);
    for slot in 0..world.config.segments as usize {
        let start = SEGMENTS_AT as usize + slot * blocks as usize * 4096;
        let block = |block: LogBlock| &log[start + block.get() as usize * 4096..][..4096];
        let Ok(header) = SegmentHeader::parse(block(LogBlock::new(0))) else {
            continue;
        };
        let (mut index, mut previous) = (0, 0);
        while let Ok(batch) = Batch::parse(block(LogBlock::new(blocks - 1 - index))) {
            let follows = batch.header.segment == header.segment
                && batch.header.index == index
                && batch.header.previous == previous;
            if !follows {
                break;
            }
            (index, previous) = (index + 1, batch.crc);
            for (entry, crcs) in batch.entries() {
                let place = (
                    usize::from(entry.volume.get()),
                    entry.first.get(),
                    entry.sectors.bytes() as usize,
                );
                if place != (volume, first, content.len()) || entry.kind != EntryKind::Write {
                    continue;
                }
                let mut bytes = Vec::new();
                for page in 0..entry.pages {
                    let (from, count) = entry.page_part(page);
                    let whole = block(LogBlock::new(entry.page.get() + u32::from(page)));
                    let part = &whole[from as usize * 512..][..count as usize * 512];
                    assert_eq!(
                        crc32c(part),
                        crcs.get(page),
                        "a page of a durable entry does not check"
                    );
                    bytes.extend_from_slice(part);
                }
                if bytes == content {
                    return true;
                }
            }
        }
    }
    false
}

#[test]
fn what_is_acknowledged_is_in_both_durable_logs_at_that_instant() {
    for seed in 1..5 {
        let mut config = WorldConfig::calm(seed);
        config.segment_blocks = 300;
        config.disk.delay = (1_000, 400_000);
        config.net.loss = 20;
        config.net.reorder = 100;
        config.cp_interval = Nanos::from_millis(20);
        let mut world = World::new(config);
        world.connect();
        let mut load = Load::new(LoadConfig { commands: 150, large: 20, ..WRITES });
        let count = std::rc::Rc::new(std::cell::Cell::new(0));
        let counter = count.clone();
        load.completed = Some(Box::new(move |world, write| {
            for side in [0, 1] {
                assert!(
                    holds(world, side, write),
                    "seed {seed}: write {write} is acknowledged and not durable at side {side}"
                );
            }
            counter.set(counter.get() + 1);
        }));
        load.run(&mut world);
        assert_eq!(count.get(), 150);
        world.stop();
    }
}
