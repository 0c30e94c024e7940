//! `ibid dump`: what lies on a log device, in words, and what a start would make of it. Reads only; a node that runs keeps its device to itself.

use crate::{args, report::hex};
use anyhow::Context as _;
use ibid_control::config::{Uuid, format_size};
use ibid_driver::checksum::crc32c;
use ibid_driver::{Arena, Disk, DiskBusy, DiskError, DiskFile, DiskOp, OpenOptions};
use ibid_engine::log::LogGeometry;
use ibid_runtime::{Layout, LayoutConfig, RecoveryReport, Turn, Unrecovered};
use ibid_units::{BLOCK_BYTES, CpId, LogBlock, Lsn, SECTOR_BYTES};
use ibid_wire::disk::{
    Batch, DiskFormatError, MAP_PAGE_BLOCKS, MapPage, SUPERBLOCK_AT, SegmentHeader, Superblock,
    SyncState,
};
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// Width of the words on the left.
const LABEL: usize = 14;
const BLOCK: usize = BLOCK_BYTES as usize;
/// The operating system's codes for a read-only file and for an error that has no code (errno.h).
const EROFS: i32 = 30;
const EIO: i32 = 5;
/// Operations on the device that recovery is given at once; each is done before the next.
const DEPTH: usize = 32;

/// Prints everything; fails where a start would refuse the device, or where the log is damaged.
pub(crate) fn run(args: &args::Dump) -> anyhow::Result<ExitCode> {
    let name = || format!("--log {}", args.log.display());
    let (text, good) = dump(&args.log).with_context(name)?;
    print!("{text}");
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn dump(path: &Path) -> anyhow::Result<(String, bool)> {
    let options = OpenOptions { create_bytes: None, written: false, read_only: true };
    let (file, _) = DiskFile::open(path, options)?;
    let mut text = String::new();
    line(&mut text, "log", &format!("{}, {} bytes", path.display(), file.bytes()));
    let mut newest: Option<Superblock> = None;
    for at in SUPERBLOCK_AT {
        match read_block(&file, at) {
            Err(error) => {
                line(&mut text, "superblock", &format!("at {at}: can't be read: {error}"))
            }
            Ok(bytes) => match Superblock::parse(&bytes) {
                Ok(found) => {
                    superblock(&mut text, at, &found);
                    if newest.is_none_or(|other| found.sequence > other.sequence) {
                        newest = Some(found);
                    }
                }
                Err(error) => {
                    line(&mut text, "superblock", &format!("at {at}: {}", bad(&bytes, error)))
                }
            },
        }
    }
    let Some(newest) = newest else {
        let verdict = "no superblock: a start takes the device for blank where both places are zeroes, and refuses it otherwise";
        line(&mut text, "recovery", verdict);
        return Ok((text, false));
    };
    let geometry = LogGeometry {
        segments: newest.segments,
        segment_blocks: newest.segment_blocks,
        arena_at: 0,
    };
    for slot in 0..geometry.segments {
        segment(&mut text, &file, geometry, &newest, slot);
    }
    let pages = map(&mut text, &file, geometry, &newest);
    let good = recovery(&mut text, file, &newest, pages)?;
    Ok((text, good))
}

fn line(text: &mut String, label: &str, what: &str) {
    writeln!(text, "{label:<LABEL$}{what}").expect("a string takes text");
}

fn bad(bytes: &[u8], error: DiskFormatError) -> String {
    if bytes.iter().all(|byte| *byte == 0) { "zeroes".to_owned() } else { error.to_string() }
}

fn read_block(file: &DiskFile, at: u64) -> std::io::Result<[u8; BLOCK]> {
    let mut bytes = [0; BLOCK];
    file.read_at(at, &mut bytes)?;
    Ok(bytes)
}

fn cp_or_none(cp: CpId) -> String {
    if cp == Superblock::PEER_NONE { "nothing of use".to_owned() } else { format!("cp {cp}") }
}

fn superblock(text: &mut String, at: u64, found: &Superblock) {
    let is_source = found.role == 1;
    let role = if is_source { "source" } else { "destination" };
    let mut say = |label: &str, what: String| line(text, label, &what);
    say("superblock", format!("at {at}: sequence {}, a {role}'s", found.sequence));
    say("  pair", Uuid::new(found.pair).to_string());
    let log_bytes = u64::from(found.segment_blocks) * BLOCK_BYTES;
    say("  log", format!("{} segments of {}", found.segments, format_size(log_bytes)));
    say(
        "  epochs",
        format!(
            "epoch {}; the log was opened last in epoch {}, older entries count up to {}",
            found.epoch, found.opened, found.agreed
        ),
    );
    say("  volumes are", format!("cp {}, up to entry {}", found.cp, found.last_lsn));
    say("  chain", hex(&found.chain));
    let state = match (found.state, is_source) {
        (SyncState::New, _) => "new: never met a source",
        (SyncState::InSync, true) => "in sync: the peer lacks nothing but what is in the log",
        (SyncState::InSync, false) => "in sync: the volumes are those of the cp",
        (SyncState::OutOfSync, true) => "out of sync: the map counts",
        (SyncState::OutOfSync, false) => "out of sync: the volumes are no state of any time",
    };
    let mut flags = vec![state];
    if found.clean {
        flags.push("stopped in good order");
    }
    if found.fresh {
        flags.push("the volumes have never held anything");
    }
    if found.whole {
        flags.push("the map names every block");
    }
    say("  state", flags.join("; "));
    let whose = if is_source { "the peer holds" } else { "the volumes come from" };
    say(
        "  peer",
        format!(
            "{whose} {}, chain {}, then {}",
            cp_or_none(found.peer_cp),
            hex(&found.peer_chain[..8]),
            hex(&found.peer_next_chain[..8])
        ),
    );
    for (place, volume) in found.volumes[..usize::from(found.volume_count)].iter().enumerate() {
        let size = format_size(volume.sectors * SECTOR_BYTES);
        say("  volume", format!("{place}: {size}, {}", Uuid::new(volume.uuid)));
    }
}

/// What the batches of one segment come to.
#[derive(Default)]
struct Batches {
    count: u32,
    entries: u64,
    last: Lsn,
    committed: Lsn,
    pages: u64,
    bad_pages: u64,
    /// Why there are no more.
    end: String,
}

fn segment(
    text: &mut String,
    file: &DiskFile,
    geometry: LogGeometry,
    newest: &Superblock,
    slot: u32,
) {
    let label = format!("segment {slot}");
    // Any segment of the slot will do to find its place.
    let place = geometry.segment_after(newest.cp, slot);
    let header = match read_block(file, geometry.device_at(place, LogBlock::new(0))) {
        Err(error) => return line(text, &label, &format!("its header can't be read: {error}")),
        Ok(bytes) => match SegmentHeader::parse(&bytes) {
            Ok(header) => header,
            Err(error) => return line(text, &label, &format!("no header: {}", bad(&bytes, error))),
        },
    };
    let standing = match header.segment {
        found if geometry.slot(found) != slot as usize => "in a slot that is not its own",
        found if found <= newest.cp => "drained",
        found if found == place => "after the cp",
        _ => "OF A LATER LAP",
    };
    let mut what = format!(
        "cp {}, {standing}; epoch {}, first entry {}",
        header.segment, header.epoch, header.first_lsn
    );
    if header.pair != newest.pair {
        what.push_str("; OF ANOTHER PAIR");
    }
    if header.blocks != geometry.segment_blocks {
        write!(what, "; of {} blocks", header.blocks).expect("a string takes text");
    }
    line(text, &label, &what);
    let found = batches(file, geometry, &header, place);
    if found.count == 0 {
        return line(text, "", &format!("no batches: {}", found.end));
    }
    let what = format!(
        "{} batches, {} entries up to {}, {} committed; {} pages, {} of them bad; then {}",
        found.count,
        found.entries,
        found.last,
        found.committed,
        found.pages,
        found.bad_pages,
        found.end
    );
    line(text, "", &what);
}

/// Follows the batches from the last block down, as long as one goes on from the other.
fn batches(file: &DiskFile, geometry: LogGeometry, header: &SegmentHeader, place: CpId) -> Batches {
    let mut found =
        Batches { last: Lsn::new(header.first_lsn.get().saturating_sub(1)), ..Batches::default() };
    let mut previous = 0;
    while found.count + 1 < geometry.segment_blocks {
        let block = geometry.batch_block(found.count);
        let bytes = match read_block(file, geometry.device_at(place, block)) {
            Ok(bytes) => bytes,
            Err(error) => {
                found.end = format!("block {block} can't be read: {error}");
                return found;
            }
        };
        let batch = match Batch::parse(&bytes) {
            Ok(batch) => batch,
            Err(error) => {
                found.end = format!("block {block}: {}", bad(&bytes, error));
                return found;
            }
        };
        let follows = batch.header.segment == header.segment
            && batch.header.epoch == header.epoch
            && batch.header.index == found.count
            && batch.header.previous == previous
            && batch.header.first_lsn == found.last.next();
        if !follows {
            found.end = format!(
                "block {block}: a batch of cp {}, epoch {}, number {}, first entry {}, which does not follow",
                batch.header.segment,
                batch.header.epoch,
                batch.header.index,
                batch.header.first_lsn
            );
            return found;
        }
        for (entry, sums) in batch.entries() {
            for page in 0..entry.pages {
                let number = u64::from(entry.page.get()) + u64::from(page);
                let (first, count) = entry.page_part(page);
                let part = first as usize * SECTOR_BYTES as usize
                    ..(first + count) as usize * SECTOR_BYTES as usize;
                let checks = number < u64::from(geometry.segment_blocks)
                    && read_block(file, geometry.device_at(place, LogBlock::new(number as u32)))
                        .is_ok_and(|bytes| crc32c(&bytes[part]) == sums.get(page));
                found.pages += 1;
                found.bad_pages += u64::from(!checks);
            }
        }
        found.count += 1;
        found.entries += u64::from(batch.entry_count);
        found.last = Lsn::new(found.last.get() + u64::from(batch.entry_count));
        found.committed = batch.header.committed;
        previous = batch.crc;
    }
    found.end = "the segment is full of them".to_owned();
    found
}

/// Bits set, volume by volume; how many pages the map has.
fn map(text: &mut String, file: &DiskFile, geometry: LogGeometry, newest: &Superblock) -> u32 {
    let mut page = 0;
    for (place, volume) in newest.volumes[..usize::from(newest.volume_count)].iter().enumerate() {
        let blocks = (volume.sectors * SECTOR_BYTES).div_ceil(BLOCK_BYTES);
        let pages = blocks.div_ceil(MAP_PAGE_BLOCKS) as u32;
        if newest.role == 0 {
            continue;
        }
        let (mut set, mut unknown) = (0, 0);
        for number in page..page + pages {
            let at = geometry.map_at() + u64::from(number) * BLOCK_BYTES;
            let expected = MapPage { page: number, pair: newest.pair };
            let checks = read_block(file, at).ok().and_then(|bytes| {
                let (head, words) = MapPage::parse(&bytes).ok()?;
                (head == expected)
                    .then(|| words.map(|word| u64::from(word.count_ones())).sum::<u64>())
            });
            match checks {
                Some(bits) => set += bits,
                None => unknown += 1,
            }
        }
        let counts = if newest.state == SyncState::OutOfSync { "counts" } else { "does not count" };
        line(
            text,
            "map",
            &format!(
                "volume {place}: {set} of {blocks} blocks set; {unknown} of {pages} pages don't check, each is all ones; it {counts}"
            ),
        );
        page += pages;
    }
    page
}

/// What a start of the node would find.
fn recovery(
    text: &mut String,
    file: DiskFile,
    newest: &Superblock,
    map_pages: u32,
) -> anyhow::Result<bool> {
    let layout = Layout::new(LayoutConfig {
        segments: newest.segments,
        segment_blocks: newest.segment_blocks,
        read_blocks: 0,
        staging_blocks: 0,
        catch_up_blocks: 0,
        answer_blocks: 0,
        compare_blocks: 0,
    });
    let bytes =
        usize::try_from(layout.bytes()).context("the log is larger than an address space")?;
    let (arena, _) = Arena::new(bytes, false)?;
    let arena = Arc::new(arena);
    let disk = Inspected { file, arena: arena.clone(), done: Vec::with_capacity(DEPTH) };
    let mut unrecovered = Unrecovered::new(disk, layout, arena, *newest, map_pages);
    loop {
        match unrecovered.turn(&mut |_, _| {}) {
            Ok(Turn::Done) => break,
            Ok(Turn::Busy | Turn::Idle) => {}
            Err(refused) => {
                line(text, "recovery", &format!("REFUSED: {refused}"));
                return Ok(false);
            }
        }
    }
    let recovered = unrecovered.finish();
    let (log, report) = (&recovered.log, &recovered.report);
    let RecoveryReport { entries, segments, damaged, torn, blocks_unreadable, .. } = *report;
    let end = match (damaged, torn) {
        (true, _) => "THE LOG IS DAMAGED: entries are missing that had been acknowledged",
        (false, true) => "the log ends in a write that was never acknowledged",
        (false, false) => "the log is whole",
    };
    let what = format!(
        "{entries} entries in {segments} segments after cp {}, up to {}; known to be on both nodes up to {}; {end}",
        log.cp,
        log.end,
        log.committed.max(recovered.superblock.agreed)
    );
    line(text, "recovery", &what);
    if blocks_unreadable > 0 {
        line(text, "", &format!("{blocks_unreadable} blocks of the log can't be read"));
    }
    Ok(!damaged)
}

/// A device that is only read, one operation after the other. Recovery asks for writes only on a blank device, which is never shown to it.
struct Inspected {
    file: DiskFile,
    arena: Arc<Arena>,
    done: Vec<(u64, Result<(), DiskError>)>,
}

impl Inspected {
    fn perform(&self, op: DiskOp) -> Result<(), DiskError> {
        match op {
            DiskOp::Read { at, span, .. } => self
                .arena
                .with_mut(span, |bytes| self.file.read_at(at, bytes))
                .map_err(|error| DiskError(error.raw_os_error().unwrap_or(EIO))),
            // What was read is what is there: nothing is made durable by looking at it.
            DiskOp::Flush { .. } => Ok(()),
            DiskOp::Write { .. } | DiskOp::Zero { .. } | DiskOp::Deallocate { .. } => {
                Err(DiskError(EROFS))
            }
        }
    }
}

impl Disk for Inspected {
    fn submit(&mut self, op: DiskOp, token: u64) -> Result<(), DiskBusy> {
        if self.done.len() == DEPTH {
            return Err(DiskBusy);
        }
        self.done.push((token, self.perform(op)));
        Ok(())
    }

    fn poll(&mut self, sink: &mut dyn FnMut(u64, Result<(), DiskError>)) -> usize {
        let count = self.done.len();
        self.done.drain(..).for_each(|(token, result)| sink(token, result));
        count
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }
}
