//! Faults that a device does not tell of: it says that all went well.

use super::{Files, SECTOR};
use ibid_driver::{Arena, DiskOp, FileId};

/// What a device does instead of what it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Harm {
    /// Nothing: what was there stays.
    Lost,
    /// All of it, with one bit the other way round.
    Flipped,
    /// Zeroes.
    Zeroed,
    /// All of it, so many bytes further on: what belongs here is not written, what lies there is lost.
    Misdirected(i64),
}

/// Decides that for each operation.
pub type Harms = Box<dyn FnMut(&DiskOp) -> Option<Harm>>;

impl Files {
    /// Does an operation in the wrong way. What a device was given to read it can't harm here: that is rot.
    pub(super) fn harmed(&mut self, arena: &Arena, op: DiskOp, harm: Harm) {
        let (file, at, mut bytes) = match op {
            DiskOp::Write { file, at, span } => (file, at, arena.bytes(span).to_vec()),
            DiskOp::Zero { file, at, len } | DiskOp::Deallocate { file, at, len } => {
                (file, at, vec![0; len as usize])
            }
            DiskOp::Read { .. } | DiskOp::Flush { .. } => panic!("only writes go wrong unsaid"),
        };
        match harm {
            Harm::Lost => {}
            Harm::Flipped => {
                bytes[40] ^= 4;
                self.write(file, at, bytes);
            }
            Harm::Zeroed => {
                bytes.fill(0);
                self.write(file, at, bytes);
            }
            Harm::Misdirected(by) => {
                let to = at.checked_add_signed(by).expect("a place on the device");
                self.write(file, to, bytes);
            }
        }
    }

    /// Everything that has completed becomes durable.
    pub fn settle_all(&mut self) {
        for file in 0..self.files.len() as u16 {
            self.flush(FileId(file), self.written);
        }
    }

    /// Bytes as they are read now.
    pub fn bytes(&self, FileId(file): FileId, at: u64, len: usize) -> Vec<u8> {
        self.files[usize::from(file)].live[at as usize..][..len].to_vec()
    }

    /// Bytes change at rest, wherever they are: on the medium, and in what the device has not written yet.
    pub fn rot_at_rest(&mut self, FileId(file): FileId, at: u64, bytes: &[u8]) {
        let at = at as usize;
        assert!(at.is_multiple_of(SECTOR) && bytes.len().is_multiple_of(SECTOR), "whole sectors");
        let file = &mut self.files[usize::from(file)];
        file.live[at..][..bytes.len()].copy_from_slice(bytes);
        file.durable[at..][..bytes.len()].copy_from_slice(bytes);
        for write in &mut file.cache {
            for from in (0..write.bytes.len()).step_by(SECTOR) {
                let place = write.at + from;
                if (at..at + bytes.len()).contains(&place) {
                    write.bytes[from..from + SECTOR]
                        .copy_from_slice(&bytes[place - at..][..SECTOR]);
                }
            }
        }
    }
}
