//! The chain digest: 32 bytes in which two nodes compare their whole histories.
//! CHAIN-1  it is a function of what clients wrote: whatever catch-up a list carries besides leaves it as it is.

use super::{Record, RecordKind};
use ibid_units::{CpId, VolumeId};
use sha2::{Digest, Sha256};

/// SHA-256 over the previous chain digest, the CP's number and what clients wrote of its list, in canonical form.
pub struct ChainDigest {
    sha: Sha256,
    /// A volume that the list has turned to and of which no client's record was seen yet.
    turned: Option<VolumeId>,
}

impl ChainDigest {
    /// Starts the digest of `cp`, which follows the history with digest `before`.
    pub fn new(before: &[u8; 32], cp: CpId) -> Self {
        let mut sha = Sha256::new();
        sha.update(before);
        sha.update(cp.get().to_le_bytes());
        Self { sha, turned: None }
    }

    /// Takes the list's next record. A volume enters with the first of its clients' records, so that one which the list turns to
    /// only to catch up leaves no trace (CHAIN-1).
    pub fn push(&mut self, record: &Record) {
        if let RecordKind::Volume(volume) = record.kind {
            self.turned = Some(volume);
            return;
        }
        let Some(canonical) = record.canonical() else { return };
        if let Some(volume) = self.turned.take() {
            self.sha.update(Record::volume(volume).emit());
        }
        self.sha.update(canonical);
    }

    /// The chain digest after the CP.
    pub fn finish(self) -> [u8; 32] {
        self.sha.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ibid_units::{LogBlock, Sector, Sectors};

    fn run(first: u64, kind: RecordKind) -> Record {
        Record { kind, first: Sector::new(first), sectors: Sectors::new(8), digest: 3 }
    }

    fn volume(number: u16) -> Record {
        Record::volume(VolumeId::new(number))
    }

    fn digest(before: u8, cp: u64, records: &[Record]) -> [u8; 32] {
        let mut chain = ChainDigest::new(&[before; 32], CpId::new(cp));
        records.iter().for_each(|record| chain.push(record));
        chain.finish()
    }

    const PAGE: RecordKind = RecordKind::Reference(LogBlock::new(7));

    #[test]
    fn history_number_and_list_all_count_but_the_place_of_bytes_does_not() {
        let one = digest(0, 1, &[run(8, PAGE)]);
        assert_ne!(one, digest(1, 1, &[run(8, PAGE)]));
        assert_ne!(one, digest(0, 2, &[run(8, PAGE)]));
        assert_ne!(one, digest(0, 1, &[run(8, RecordKind::Zeroes)]));
        assert_ne!(one, digest(0, 1, &[run(8, RecordKind::Deallocate)]));
        assert_ne!(one, digest(0, 1, &[run(16, PAGE)]));
        assert_eq!(one, digest(0, 1, &[run(8, RecordKind::Reference(LogBlock::new(9)))]));
    }

    #[test]
    fn the_volume_of_a_clients_record_counts() {
        let one = digest(0, 1, &[volume(1), run(8, PAGE)]);
        assert_ne!(one, digest(0, 1, &[volume(2), run(8, PAGE)]));
        assert_ne!(one, digest(0, 1, &[run(8, PAGE)]));
        let two = digest(0, 1, &[volume(1), run(8, PAGE), volume(2), run(8, PAGE)]);
        assert_ne!(two, digest(0, 1, &[volume(1), run(8, PAGE), run(8, PAGE)]));
    }

    #[test]
    fn catch_up_leaves_no_trace_wherever_it_stands() {
        let bare = [
            volume(1),
            run(8, PAGE),
            run(32, RecordKind::Zeroes),
            volume(3),
            run(0, RecordKind::Deallocate),
        ];
        let expected = digest(0, 1, &bare);
        // Every subset of the places: before, between and behind, also in volumes that clients did not write.
        for places in 0..1u32 << 8 {
            let mut chain = ChainDigest::new(&[0; 32], CpId::new(1));
            let catch_up = |chain: &mut ChainDigest, place: u32, records: &[Record]| {
                if places >> place & 1 == 1 {
                    records.iter().for_each(|record| chain.push(record));
                }
            };
            catch_up(&mut chain, 0, &[volume(0), run(0, RecordKind::Block)]);
            chain.push(&bare[0]);
            catch_up(&mut chain, 1, &[run(0, RecordKind::Block)]);
            chain.push(&bare[1]);
            catch_up(&mut chain, 2, &[run(16, RecordKind::Hole)]);
            catch_up(&mut chain, 3, &[run(24, RecordKind::Block)]);
            chain.push(&bare[2]);
            catch_up(&mut chain, 4, &[run(40, RecordKind::Block)]);
            catch_up(&mut chain, 5, &[volume(2), run(0, RecordKind::Hole)]);
            chain.push(&bare[3]);
            chain.push(&bare[4]);
            catch_up(&mut chain, 6, &[run(8, RecordKind::Hole)]);
            catch_up(&mut chain, 7, &[volume(9), run(0, RecordKind::Block)]);
            assert_eq!(chain.finish(), expected, "places {places:b}");
        }
        let alone = [volume(0), run(0, RecordKind::Block), run(8, RecordKind::Hole)];
        assert_eq!(digest(0, 1, &alone), digest(0, 1, &[]));
    }
}
