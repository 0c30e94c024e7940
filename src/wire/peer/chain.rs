//! The chain digest: 32 bytes in which two nodes compare their whole histories.

use super::Record;
use ibid_units::CpId;
use sha2::{Digest, Sha256};

/// SHA-256 over the previous chain digest, the CP's number and its list in canonical form.
pub struct ChainDigest(Sha256);

impl ChainDigest {
    /// Starts the digest of `cp`, which follows the history with digest `before`.
    pub fn new(before: &[u8; 32], cp: CpId) -> Self {
        let mut sha = Sha256::new();
        sha.update(before);
        sha.update(cp.get().to_le_bytes());
        Self(sha)
    }

    /// Takes the list's next record.
    pub fn push(&mut self, record: &Record) {
        self.0.update(record.canonical());
    }

    /// The chain digest after the CP.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::RecordKind;
    use ibid_units::{LogBlock, Sector, Sectors};

    fn chain(before: u8, cp: u64, kind: RecordKind) -> [u8; 32] {
        let mut chain = ChainDigest::new(&[before; 32], CpId::new(cp));
        chain.push(&Record { kind, first: Sector::new(8), sectors: Sectors::new(8), digest: 3 });
        chain.finish()
    }

    #[test]
    fn history_number_and_list_all_count_but_the_way_bytes_travel_does_not() {
        let one = chain(0, 1, RecordKind::Block);
        assert_ne!(one, chain(1, 1, RecordKind::Block));
        assert_ne!(one, chain(0, 2, RecordKind::Block));
        assert_ne!(one, chain(0, 1, RecordKind::Zeroes));
        assert_eq!(one, chain(0, 1, RecordKind::Reference(LogBlock::new(7))));
    }
}
