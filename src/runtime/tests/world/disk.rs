//! A node's files in memory: completions late and in any order, a volatile cache that only a flush empties, errors on demand.
//! A read shows each sector as it was at any time between submission and completion, so that one that races a write tears.

use super::guard;
use super::random::Random;
use ibid_driver::{Arena, Disk, DiskBusy, DiskError, DiskOp, FileId};
use ibid_units::Nanos;
use std::cell::RefCell;
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
}

impl DiskFaults {
    pub const FAST: DiskFaults = DiskFaults { delay: (5_000, 30_000), busy: 0, depth: 64 };
}

struct Cached {
    number: u64,
    at: usize,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    cache: Vec<Cached>,
}

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
    pub now: Nanos,
    pub faults: DiskFaults,
    pub fail: Option<Fail>,
    files: Vec<File>,
    flying: Vec<Flying>,
    written: u64,
}

impl Files {
    /// Files with these contents, all durable.
    pub fn new(random: Random, faults: DiskFaults, contents: Vec<Vec<u8>>) -> Rc<RefCell<Files>> {
        let file = |bytes: Vec<u8>| File { durable: bytes.clone(), live: bytes, cache: Vec::new() };
        Rc::new(RefCell::new(Files {
            random,
            now: Nanos::ZERO,
            faults,
            fail: None,
            files: contents.into_iter().map(file).collect(),
            flying: Vec::new(),
            written: 0,
        }))
    }

    pub fn live(&self, file: usize) -> &[u8] {
        &self.files[file].live
    }

    /// What a power cut would surely leave.
    pub fn durable(&self, file: usize) -> &[u8] {
        &self.files[file].durable
    }

    /// A power cut: of everything not flushed, any sectors survive.
    pub fn after_power_cut(&mut self) -> Vec<Vec<u8>> {
        let Self { files, random, .. } = self;
        let cut = |file: &File| {
            let mut bytes = file.durable.clone();
            for write in &file.cache {
                for at in (0..write.bytes.len()).step_by(SECTOR) {
                    if random.chance(500) {
                        bytes[write.at + at..][..SECTOR]
                            .copy_from_slice(&write.bytes[at..at + SECTOR]);
                    }
                }
            }
            bytes
        };
        files.iter().map(cut).collect()
    }

    pub fn next_completion(&self) -> Option<u64> {
        self.flying.iter().map(|flying| flying.done_at).min()
    }

    fn submit(&mut self, arena: &Arena, op: DiskOp, token: u64) -> Result<(), DiskBusy> {
        if self.flying.len() >= self.faults.depth || self.random.chance(self.faults.busy) {
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
        let done_at = self.now.get() + self.random.between(self.faults.delay);
        self.flying.push(Flying { token, op, done_at, covers: self.written, bytes });
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
        let now = self.now.get();
        let at = (0..self.flying.len())
            .filter(|at| self.flying[*at].done_at <= now)
            .min_by_key(|at| self.flying[*at].done_at)?;
        let Flying { token, op, covers, bytes, .. } = self.flying.swap_remove(at);
        if let Some(code) = self.fail.as_mut().and_then(|fail| fail(&op)) {
            return Some((token, Err(DiskError(code))));
        }
        match op {
            DiskOp::Read { file, at, span } => {
                let mut shown = bytes;
                let Self { files, random, .. } = self;
                let live = &files[usize::from(file.0)].live[at as usize..][..span.len as usize];
                for (old, new) in shown.chunks_mut(SECTOR).zip(live.chunks(SECTOR)) {
                    if random.chance(500) {
                        old.copy_from_slice(new);
                    }
                }
                arena.copy_in(span.at, &shown);
            }
            DiskOp::Write { file, at, span } => {
                let now = arena.bytes(span).to_vec();
                assert!(
                    bytes.is_empty() || bytes == now,
                    "ARENA-1: bytes changed while they were written"
                );
                self.write(file, at, now);
            }
            DiskOp::Zero { file, at, len } | DiskOp::Deallocate { file, at, len } => {
                self.write(file, at, vec![0; len as usize]);
            }
            DiskOp::Flush { file } => {
                let File { durable, cache, .. } = self.file(file);
                cache.retain(|write| {
                    let covered = write.number <= covers;
                    if covered {
                        durable[write.at..][..write.bytes.len()].copy_from_slice(&write.bytes);
                    }
                    !covered
                });
            }
        }
        Some((token, Ok(())))
    }
}

fn check(at: u64, len: u64) {
    assert!(
        len > 0 && at.is_multiple_of(512) && len.is_multiple_of(512),
        "{len} bytes at {at} are not whole blocks"
    );
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
