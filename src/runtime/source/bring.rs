//! What a CP brings from the out-of-sync map: blocks of this node's volumes, read into memory before the list is made. Between two CPs a
//! volume does not change, so what is read is the state that the CP goes on from.

use super::Core;
use super::point::CpPhase;
use crate::disks::{Work, volume_file};
use ibid_driver::{Disk, DiskError, DiskOp};
use ibid_units::{BLOCK_BYTES, Mutant, Nanos, Span, VolumeId};

/// Blocks of one read: 256 KiB.
const RUN_BLOCKS_MAX: u32 = 64;

/// Marks the read of a single block, made again because its run could not be read.
const SINGLE: u32 = 1 << 31;

/// Reads under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bring {
    outstanding: u32,
}

impl<D: Disk> Core<D> {
    /// Chooses what the CP brings and starts to read it; false where it brings nothing.
    pub(super) fn begin_bring(&mut self, now: Nanos) -> bool {
        self.settles = true;
        self.bring = Bring::default();
        // A CP that the peer has recorded already, with an earlier start of this node, brought what that start chose: not what would be
        // chosen now, for the map may have lost those bits since.
        if !self.peer.is_connected()
            || self.peer.cp >= self.running_cp()
            || now < self.sync.catch_up_at
            || self.catch_up.begin(&self.map) == 0
        {
            self.catch_up.clear();
            return false;
        }
        if Mutant::MapClearedEarly.is_on() {
            for n in 0..self.catch_up.len() {
                self.catch_up.get(n).inspect(|block| self.map.clear(block.volume, block.block));
            }
        }
        let mut page = 0;
        while let Some(run) = self.catch_up.run_from(page, RUN_BLOCKS_MAX) {
            self.read_brought(run.volume, run.first_block, run.blocks, run.first_page, 0);
            page += run.blocks;
        }
        true
    }

    fn read_brought(&mut self, volume: VolumeId, block: u64, blocks: u32, page: u32, mark: u32) {
        let span = self.brought_span(page, blocks);
        let op = DiskOp::Read { file: volume_file(volume), at: block * BLOCK_BYTES, span };
        self.bring.outstanding += 1;
        self.disks.submit(op, Work::Bring { page: page | mark });
    }

    /// Staging pages from `page` on.
    pub(super) fn brought_span(&self, page: u32, blocks: u32) -> Span {
        let at = self.layout.catch_up.at + u64::from(page) * BLOCK_BYTES;
        Span::new(at, blocks * BLOCK_BYTES as u32)
    }

    /// A read is complete. One that failed is made again block by block, so that only what can't be read stays behind.
    pub(super) fn brought(&mut self, now: Nanos, page: u32, result: Result<(), DiskError>) {
        self.bring.outstanding -= 1;
        let Err(DiskError(code)) = result else { return };
        self.trouble.note(now, code);
        let (page, single) = (page & !SINGLE, page & SINGLE != 0);
        let run = self.catch_up.run_from(page, RUN_BLOCKS_MAX).expect("a read has its run");
        if single {
            self.catch_up.set_bad(page as usize);
            return;
        }
        for n in 0..run.blocks {
            let block = run.first_block + u64::from(n);
            self.read_brought(run.volume, block, 1, page + n, SINGLE);
        }
    }

    /// Waits for the reads, then finds the blocks that are zero.
    pub(super) fn bring_step(&mut self) -> bool {
        if self.bring.outstanding > 0 {
            return false;
        }
        for page in 0..self.catch_up.len() as u32 {
            let span = self.brought_span(page, 1);
            let is_zero = {
                let bytes = self.arena.bytes(span);
                let (chunks, rest) = bytes.as_chunks::<16>();
                rest.is_empty() && chunks.iter().all(|chunk| u128::from_le_bytes(*chunk) == 0)
            };
            if is_zero {
                self.catch_up.set_zero(page as usize);
            }
        }
        self.cp_phase = CpPhase::Listing;
        true
    }
}
