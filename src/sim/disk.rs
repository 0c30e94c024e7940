//! A node's files in memory: completions late and in any order, a volatile cache that only a flush empties, errors on demand.
//! A read shows each sector as it was at any time between submission and completion, so that one that races a write tears.
//! Two ends: a power cut leaves what was durable and any sectors of the rest; a killed process leaves the cache as it is, and what it
//! had submitted happens or not.

pub mod cut;
pub mod harm;

use crate::effects::{Effect, Effects};
use crate::faults::Class as Fault;
use crate::guard;
use crate::random::Random;
use crate::trace::{Place, Tracer};
use ibid_driver::{Arena, Disk, DiskBusy, DiskError, DiskOp, FileId};
use ibid_units::{Nanos, Span};
use ibid_wire::disk::SEGMENTS_AT;
use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;

const SECTOR: usize = 512;

/// How slow and full the device is.
#[derive(Clone, Copy, Debug)]
pub struct DiskFaults {
    /// Nanoseconds.
    pub delay: (u64, u64),
    /// Chance of a thousand that the queue says it is full.
    pub busy: u32,
    /// Operations under way at most.
    pub depth: usize,
    /// Chance of a thousand that an operation takes a thousand times as long.
    pub slow: u32,
}

impl DiskFaults {
    pub const FAST: DiskFaults = DiskFaults { delay: (5_000, 30_000), busy: 0, depth: 64, slow: 0 };
}

#[derive(Clone)]
struct Cached {
    number: u64,
    at: usize,
    bytes: Vec<u8>,
}

#[derive(Clone, Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    cache: Vec<Cached>,
}

#[derive(Clone)]
struct Flying {
    token: u64,
    op: DiskOp,
    done_at: u64,
    /// Of a flush: what had completed when it was submitted. Otherwise unused.
    covers: u64,
    /// Of a read: what was there at its submission. Of a write: its bytes, if the device took them then.
    bytes: Vec<u8>,
}

/// Decides which operation fails, and how.
pub type Fail = Box<dyn FnMut(&DiskOp) -> Option<i32>>;

/// All files of one node. Survives the node.
pub struct Files {
    random: Random,
    trace: Tracer,
    side: usize,
    pub now: Nanos,
    pub faults: DiskFaults,
    pub fail: Option<Fail>,
    /// Decides which write or read goes wrong without a word.
    pub harm: Option<harm::Harms>,
    /// Where the map of the log device begins, for whoever counts effects.
    pub map_at: u64,
    pub effects: Effects,
    files: Vec<File>,
    flying: Vec<Flying>,
    written: u64,
    /// Runs of the log device that became durable since somebody looked: (first byte, bytes). Kept only while `watched`.
    changed: Vec<(usize, usize)>,
    watched: bool,
}

impl Files {
    /// Files with these contents, all durable.
    pub fn new(
        random: Random,
        faults: DiskFaults,
        (trace, side): (Tracer, usize),
        contents: Vec<Vec<u8>>,
    ) -> Rc<RefCell<Files>> {
        let file = |bytes: Vec<u8>| File { durable: bytes.clone(), live: bytes, cache: Vec::new() };
        Rc::new(RefCell::new(Files {
            random,
            trace,
            side,
            now: Nanos::ZERO,
            faults,
            fail: None,
            harm: None,
            map_at: u64::MAX,
            effects: Effects::default(),
            files: contents.into_iter().map(file).collect(),
            flying: Vec::new(),
            written: 0,
            changed: Vec::new(),
            watched: false,
        }))
    }

    /// The same files once more, to try out what would become of them.
    pub fn fork(&self, random: Random) -> Files {
        Files {
            random,
            trace: Tracer::silent(),
            side: self.side,
            now: self.now,
            faults: DiskFaults::FAST,
            fail: None,
            harm: None,
            map_at: self.map_at,
            effects: Effects::default(),
            files: self.files.clone(),
            flying: self.flying.clone(),
            written: self.written,
            changed: Vec::new(),
            watched: false,
        }
    }

    pub fn live(&self, file: usize) -> &[u8] {
        &self.files[file].live
    }

    /// What a power cut would surely leave.
    pub fn durable(&self, file: usize) -> &[u8] {
        &self.files[file].durable
    }

    /// From now on changes of the durable log are noted.
    pub fn watch(&mut self) {
        self.watched = true;
    }
    /// What has become durable on the log device.
    pub fn take_changed(&mut self, into: &mut Vec<(usize, usize)>) {
        into.clear();
        std::mem::swap(&mut self.changed, into);
    }

    /// Gives a volume its contents before anything runs.
    pub fn fill(&mut self, file: usize, at: usize, bytes: &[u8]) {
        let File { live, durable, cache } = &mut self.files[file];
        live[at..][..bytes.len()].copy_from_slice(bytes);
        durable[at..][..bytes.len()].copy_from_slice(bytes);
        let end = at + bytes.len();
        cache.retain(|write| write.at >= end || write.at + write.bytes.len() <= at);
    }

    /// Bytes rot at rest: what `change` does to them is durable at once. What a cache held for them has been written behind.
    pub fn rot(&mut self, file: usize, at: usize, bytes: usize, change: impl Fn(&mut [u8])) {
        let noted = file == 0 && self.watched;
        let Self { files, changed, .. } = self;
        let File { live, durable, cache } = &mut files[file];
        cache.retain(|write| {
            let apart = write.at >= at + bytes || write.at + write.bytes.len() <= at;
            if !apart {
                durable[write.at..][..write.bytes.len()].copy_from_slice(&write.bytes);
                if noted {
                    changed.push((write.at, write.bytes.len()));
                }
            }
            apart
        });
        change(&mut live[at..][..bytes]);
        change(&mut durable[at..][..bytes]);
        if noted {
            changed.push((at, bytes));
        }
    }

    /// A power cut: of everything not flushed, completed or under way, any sectors survive. `arena` is the memory of the node that
    /// dies with it.
    pub fn power_cut(&mut self, arena: &Arena) {
        self.land(arena, 300);
        self.flying.clear();
        let Self { files, random, trace, side, changed, watched, .. } = self;
        for (number, file) in files.iter_mut().enumerate() {
            // All, none, or a part of it: devices differ in what they have written behind.
            let share = [0, 500, 1000, 100 + random.below(800) as u32][random.below(4) as usize];
            let File { live, durable, cache } = file;
            let (mut kept, mut lost) = (0, 0);
            for write in cache.iter() {
                for at in (0..write.bytes.len()).step_by(SECTOR) {
                    if random.chance(share) {
                        durable[write.at + at..][..SECTOR]
                            .copy_from_slice(&write.bytes[at..at + SECTOR]);
                        kept += 1;
                    } else {
                        lost += 1;
                    }
                }
                if number == 0 && *watched {
                    changed.push((write.at, write.bytes.len()));
                }
            }
            for write in cache.drain(..) {
                let run = write.at..write.at + write.bytes.len();
                live[run.clone()].copy_from_slice(&durable[run]);
            }
            if lost > 0 {
                trace.fault(Place::node(*side), Fault::DiskCacheLost, lost);
                if kept > 0 {
                    trace.fault(Place::node(*side), Fault::DiskSubset, kept);
                }
            }
        }
    }

    /// The process is killed: the device goes on, so what was under way happens, wholly, in part or not.
    pub fn kill(&mut self, arena: &Arena) {
        self.land(arena, 500);
        self.flying.clear();
    }

    /// Lets writes that are under way reach the device, each in so many of a thousand; of the others any sectors.
    fn land(&mut self, arena: &Arena, wholly: u32) {
        for at in 0..self.flying.len() {
            let (file, at, bytes) = match self.flying[at].op {
                DiskOp::Write { file, at, span } => (file, at, arena.bytes(span).to_vec()),
                DiskOp::Zero { file, at, len } | DiskOp::Deallocate { file, at, len } => {
                    (file, at, vec![0; len as usize])
                }
                DiskOp::Read { .. } | DiskOp::Flush { .. } => continue,
            };
            if self.random.chance(wholly) {
                self.write(file, at, bytes);
            } else if self.random.chance(700) {
                self.trace.fault(Place::node(self.side), Fault::DiskTorn, at);
                self.write_part(file, at, &bytes);
            }
        }
    }

    /// Any sectors of a write reach the device.
    fn write_part(&mut self, file: FileId, at: u64, bytes: &[u8]) {
        // Sectors in runs: one write for each run that lands.
        let mut from = 0;
        while from < bytes.len() {
            let run = SECTOR * (1 + self.random.below(8) as usize);
            let to = (from + run).min(bytes.len());
            if self.random.chance(500) {
                self.write(file, at + from as u64, bytes[from..to].to_vec());
            }
            from = to;
        }
    }

    /// Bytes of the node's memory are on their way to or from the device.
    pub fn uses(&self, span: Span) -> bool {
        self.flying.iter().any(|flying| match flying.op {
            DiskOp::Read { span: used, .. } | DiskOp::Write { span: used, .. } => {
                used.at < span.end() && span.at < used.end()
            }
            DiskOp::Zero { .. } | DiskOp::Deallocate { .. } | DiskOp::Flush { .. } => false,
        })
    }

    pub fn next_completion(&self) -> Option<u64> {
        self.flying.iter().map(|flying| flying.done_at).min()
    }

    fn submit(&mut self, arena: &Arena, op: DiskOp, token: u64) -> Result<(), DiskBusy> {
        if self.effects.is_dead(self.side) {
            return Ok(());
        }
        if self.flying.len() >= self.faults.depth {
            return Err(DiskBusy);
        }
        if self.random.chance(self.faults.busy) {
            self.trace.fault(Place::node(self.side), Fault::DiskBusy, 0);
            return Err(DiskBusy);
        }
        let mut bytes = Vec::new();
        match op {
            DiskOp::Read { file, at, span } => {
                check(at, u64::from(span.len));
                bytes.extend_from_slice(&self.file(file).live[at as usize..][..span.len as usize]);
            }
            DiskOp::Write { at, span, .. } => {
                check(at, u64::from(span.len));
                if self.random.chance(500) {
                    bytes.extend_from_slice(&arena.bytes(span));
                }
            }
            DiskOp::Zero { at, len, .. } | DiskOp::Deallocate { at, len, .. } => check(at, len),
            DiskOp::Flush { .. } => {}
        }
        let mut delay = self.random.between(self.faults.delay);
        if self.faults.slow > 0 && self.random.chance(self.faults.slow) {
            self.trace.fault(Place::node(self.side), Fault::DiskSlow, delay);
            delay *= 1000;
        }
        let done_at = self.now.get() + delay;
        self.flying.push(Flying { token, op, done_at, covers: self.written, bytes });
        self.mark(&op, false);
        Ok(())
    }

    fn file(&mut self, file: FileId) -> &mut File {
        &mut self.files[usize::from(file.0)]
    }

    fn write(&mut self, file: FileId, at: u64, bytes: Vec<u8>) {
        self.written += 1;
        let number = self.written;
        let file = self.file(file);
        file.live[at as usize..][..bytes.len()].copy_from_slice(&bytes);
        file.cache.push(Cached { number, at: at as usize, bytes });
    }

    fn complete(&mut self, arena: &Arena) -> Option<(u64, Result<(), DiskError>)> {
        if self.effects.is_dead(self.side) {
            return None;
        }
        let now = self.now.get();
        let at = (0..self.flying.len())
            .filter(|at| self.flying[*at].done_at <= now)
            .min_by_key(|at| self.flying[*at].done_at)?;
        let Flying { token, op, covers, bytes, .. } = self.flying.swap_remove(at);
        self.trace.mix(6 << 56 | (self.side as u64) << 48 | token);
        if let Some(code) = self.fail.as_mut().and_then(|fail| fail(&op)) {
            self.failed(arena, op, covers);
            self.mark(&op, true);
            return Some((token, Err(DiskError(code))));
        }
        if let Some(harm) = self.harm.as_mut().and_then(|harm| harm(&op)) {
            self.harmed(arena, op, harm);
            self.mark(&op, true);
            return Some((token, Ok(())));
        }
        match op {
            DiskOp::Read { file, at, span } => {
                let mut shown = bytes;
                let Self { files, random, .. } = self;
                let live = &files[usize::from(file.0)].live[at as usize..][..span.len as usize];
                if shown != live {
                    for (old, new) in shown.chunks_mut(SECTOR).zip(live.chunks(SECTOR)) {
                        if random.chance(500) {
                            old.copy_from_slice(new);
                        }
                    }
                }
                arena.copy_in(span.at, &shown);
            }
            DiskOp::Write { file, at, span } => {
                let now = if bytes.is_empty() {
                    arena.bytes(span).to_vec()
                } else {
                    assert!(
                        bytes == *arena.bytes(span),
                        "ARENA-1: bytes changed while they were written"
                    );
                    bytes
                };
                self.write(file, at, now);
            }
            DiskOp::Zero { file, at, len } | DiskOp::Deallocate { file, at, len } => {
                self.write(file, at, vec![0; len as usize]);
            }
            DiskOp::Flush { file } => self.flush(file, covers),
        }
        self.mark(&op, true);
        Some((token, Ok(())))
    }

    fn mark(&self, op: &DiskOp, done: bool) {
        let [submitted, completed] = match *op {
            DiskOp::Read { file: FileId(0), .. } => [Effect::LogRead, Effect::LogReadDone],
            DiskOp::Read { .. } => [Effect::VolumeRead, Effect::VolumeReadDone],
            DiskOp::Flush { file: FileId(0) } => [Effect::LogFlush, Effect::LogFlushed],
            DiskOp::Flush { .. } => [Effect::VolumeFlush, Effect::VolumeFlushed],
            DiskOp::Write { file, at, .. }
            | DiskOp::Zero { file, at, .. }
            | DiskOp::Deallocate { file, at, .. } => match file {
                FileId(0) if at < SEGMENTS_AT => [Effect::Superblock, Effect::SuperblockWritten],
                FileId(0) if at >= self.map_at => [Effect::MapWrite, Effect::MapWritten],
                FileId(0) => [Effect::LogWrite, Effect::LogWritten],
                _ => [Effect::VolumeWrite, Effect::VolumeWritten],
            },
        };
        self.effects.mark(self.side, if done { completed } else { submitted });
    }

    fn flush(&mut self, file: FileId, covers: u64) {
        let noted = self.watched && file == FileId(0);
        let Self { files, changed, .. } = self;
        let File { durable, cache, .. } = &mut files[usize::from(file.0)];
        cache.retain(|write| {
            let covered = write.number <= covers;
            if covered {
                durable[write.at..][..write.bytes.len()].copy_from_slice(&write.bytes);
                if noted {
                    changed.push((write.at, write.bytes.len()));
                }
            }
            !covered
        });
    }

    /// An operation that ends with an error has done a part of what it was to do. A flush that fails has lost some writes for good:
    /// the next one succeeds and covers them no more (fsyncgate).
    fn failed(&mut self, arena: &Arena, op: DiskOp, covers: u64) {
        match op {
            DiskOp::Read { .. } => {}
            DiskOp::Write { file, at, span } => {
                let bytes = arena.bytes(span).to_vec();
                self.write_part(file, at, &bytes);
            }
            DiskOp::Zero { file, at, len } | DiskOp::Deallocate { file, at, len } => {
                self.write_part(file, at, &vec![0; len as usize]);
            }
            DiskOp::Flush { file } => {
                let Self { files, random, .. } = self;
                let File { live, durable, cache } = &mut files[usize::from(file.0)];
                let before = cache.len();
                let mut lost = Vec::new();
                cache.retain(|write| {
                    let kept = write.number > covers || random.chance(500);
                    if !kept {
                        lost.push(write.at..write.at + write.bytes.len());
                    }
                    kept
                });
                // Files are opened past the page cache: what the device has lost is not read any more either.
                for run in lost {
                    live[run.clone()].copy_from_slice(&durable[run]);
                }
                if cache.len() < before {
                    for write in cache.iter() {
                        live[write.at..][..write.bytes.len()].copy_from_slice(&write.bytes);
                    }
                }
            }
        }
    }
}

fn check(at: u64, len: u64) {
    assert!(
        len > 0 && at.is_multiple_of(512) && len.is_multiple_of(512),
        "{len} bytes at {at} are not whole blocks"
    );
}

/// The bytes of a node's file that a power cut would surely leave.
pub fn durable(files: &Rc<RefCell<Files>>, file: usize) -> Ref<'_, [u8]> {
    Ref::map(files.borrow(), |files| files.durable(file))
}

/// The driver a node holds.
pub struct MemDisk {
    pub files: Rc<RefCell<Files>>,
    pub arena: Arc<Arena>,
}

impl Disk for MemDisk {
    fn submit(&mut self, op: DiskOp, token: u64) -> Result<(), DiskBusy> {
        guard::world(|| self.files.borrow_mut().submit(&self.arena, op, token))
    }
    fn poll(&mut self, sink: &mut dyn FnMut(u64, Result<(), DiskError>)) -> usize {
        let mut count = 0;
        while let Some((token, result)) =
            guard::world(|| self.files.borrow_mut().complete(&self.arena))
        {
            sink(token, result);
            count += 1;
        }
        count
    }
    fn in_flight(&self) -> usize {
        self.files.borrow().flying.len()
    }
}
