//! What several stages start from: a geometry, a source's log in plain memory, a generator of positions.

use ibid_engine::PlainMemory;
use ibid_engine::log::{
    ClosedBatch, Completion, LogGeometry, ReserveRefused, SourceLog, SourceLogConfig,
};
use ibid_units::{BLOCK_SECTORS, CpId, Epoch, Lsn, Nanos, Sector, Sectors, VolumeId};
use ibid_wire::disk::EntryKind;

/// The pair that every header is stamped with.
pub(crate) const PAIR: [u8; 16] = [7; 16];
/// Blocks of the volume that is written to: 256 MiB.
pub(crate) const VOLUME_BLOCKS: u64 = 65_536;
/// Bytes of a batch in one frame of 9000 bytes.
const BATCH_BYTES_MAX: usize = 4096;
const NOW: Nanos = Nanos::from_millis(1);

/// Positions that repeat from run to run: splitmix64 (Steele and Lea).
pub(crate) struct Random(u64);

impl Random {
    /// Always the same sequence.
    pub(crate) const fn new() -> Random {
        Random(1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

/// A source's log and its memory.
pub(crate) struct Source {
    /// The log.
    pub(crate) log: SourceLog,
    /// Where it lies.
    pub(crate) memory: PlainMemory,
    random: Random,
}

impl Source {
    /// An empty log.
    pub(crate) fn new(geometry: LogGeometry) -> Source {
        let log = SourceLog::new(SourceLogConfig {
            geometry,
            pair: PAIR,
            epoch: Epoch::new(1),
            cp: CpId::new(0),
            last_lsn: Lsn::new(0),
            entries_max: 1024,
            batch_bytes_max: BATCH_BYTES_MAX,
            late_after: Nanos::from_millis(20),
            opened: true,
            durable_there: Lsn::new(0),
        });
        let bytes = usize::try_from(geometry.bytes()).expect("a log fits the address space");
        Source { log, memory: PlainMemory(vec![0; bytes]), random: Random::new() }
    }

    /// Logs one write of 4 KiB at a random place. A drained segment is freed when there is no room, so that the price of freeing is
    /// part of the price of writing. `crc` is what the page is said to hold.
    pub(crate) fn append(&mut self, token: u64, crc: u32) {
        let block = self.random.below(VOLUME_BLOCKS);
        let first = Sector::new(block * BLOCK_SECTORS);
        let placement = loop {
            let reserved = self.log.reserve(
                NOW,
                EntryKind::Write,
                VolumeId::new(0),
                first,
                Sectors::new(BLOCK_SECTORS as u32),
            );
            match reserved {
                Ok(placement) => break placement,
                Err(ReserveRefused::Full) => {
                    let drained = self.log.drainable().expect("every write before is committed");
                    self.log.free(drained);
                }
                Err(other) => panic!("a write of one block is refused: {other}"),
            }
        };
        self.log.set_page(&placement, 0, crc);
        assert_eq!(self.log.complete(NOW, placement, token), Completion::Logged);
    }

    /// Closes the open batch.
    pub(crate) fn close(&mut self) -> ClosedBatch {
        self.log.close_batch(&mut self.memory).expect("there are entries")
    }

    /// Both nodes hold everything; gives the number of writes that may be answered now.
    pub(crate) fn commit(&mut self) -> usize {
        let batched = self.log.batched();
        self.log.durable_here(batched);
        assert!(self.log.durable_there(batched), "it was sent");
        std::iter::from_fn(|| self.log.pop_committed()).count()
    }
}
