//! A compare and a write that are one, as a client sees them: two commands with an answer each, judged together.

use crate::host::{Op, Request};
use crate::model::{Line, Model, Reading, Versions, Write};
use crate::random::Random;
use ibid_wire::nvme_tcp::Status;

/// The largest, in bytes: what a capsule carries.
pub const PAIR_BYTES: u64 = 16 << 10;

/// A pair under way.
pub struct Pair {
    pub reading: Reading,
    versions: Versions,
    pub write: Write,
    /// How the commands ended that have, the compare first.
    ended: [Option<Status>; 2],
}

/// What came of one.
pub enum Outcome {
    /// It found these versions, and took effect behind them.
    Effective(Versions),
    /// It found these versions; whether the write took effect nobody knows.
    Unsure(Versions),
    /// The write has no effect.
    Never,
}

impl Pair {
    /// A pair of a run of whole logical blocks that expects these versions there, and its two commands.
    pub fn begin(
        model: &mut Model,
        (volume, lba_bytes): (usize, u32),
        (first, versions): (u64, Versions),
        random: &mut Random,
    ) -> (Pair, [Request; 2]) {
        let length = versions.len() as u64;
        let expected = model.bytes_of(volume, first, &versions);
        let reading = model.begin_read(volume, first, length);
        let (write, data) = model.begin_write(volume, first, length, false);
        let request = |op| Request::of((volume, lba_bytes), first, length, op);
        let in_capsule = [(); 2].map(|()| random.chance(700));
        let requests = [
            request(Op::Compare { data: expected, in_capsule: in_capsule[0] }),
            request(Op::Write { data, in_capsule: in_capsule[1] }),
        ];
        (Pair { reading, versions, write, ended: [None; 2] }, requests)
    }

    /// One of its commands has ended; true when both have.
    pub fn ended(&mut self, half: usize, status: Status) -> bool {
        self.ended[half] = Some(status);
        self.ended.iter().all(Option::is_some)
    }

    /// The write has an answer, though perhaps not the compare.
    pub fn write_has_ended(&self) -> bool {
        self.ended[1].is_some()
    }

    /// Judges a pair whose commands have both ended. What took effect is not ended in the model yet.
    pub fn judge(self, model: &mut Model) -> Outcome {
        let Pair { reading, versions, write, ended } = self;
        let [Some(compared), Some(written)] = ended else { panic!("a pair that is under way") };
        let Line { volume, first, .. } = model.line(write);
        match compared {
            Status::SUCCESS => {
                let bytes = model.bytes_of(volume, first, &versions);
                model.see(&reading, &bytes);
            }
            Status::COMPARE_FAILURE => model.differed(&reading, &versions, Some(write)),
            Status::COMMAND_INTERRUPTED
            | Status::ANA_INACCESSIBLE
            | Status::UNRECOVERED_READ_ERROR => model.drop_read(&reading),
            // The node became no path between the two.
            Status::ABORTED_MISSING_FUSED if written == Status::ANA_INACCESSIBLE => {
                model.drop_read(&reading);
            }
            status => panic!("a compare ends with {status}"),
        }
        match (compared, written) {
            (Status::SUCCESS, Status::SUCCESS) => {
                model.follows(write, &versions);
                Outcome::Effective(versions)
            }
            // It has its place in the log, or will have none.
            (Status::SUCCESS, Status::COMMAND_INTERRUPTED | Status::ANA_INACCESSIBLE) => {
                model.end_unsure(write);
                Outcome::Unsure(versions)
            }
            (_, Status::SUCCESS) | (Status::SUCCESS, _) => {
                panic!(
                    "FUSE-3: the compare of a pair ends with {compared}, its write with {written}"
                )
            }
            // It ended before it was logged, whatever the compare found by itself.
            (
                _,
                Status::ABORTED_FAILED_FUSED
                | Status::COMMAND_INTERRUPTED
                | Status::ANA_INACCESSIBLE,
            ) => {
                model.never(write);
                Outcome::Never
            }
            (_, status) => panic!("the write of a pair ends with {status}"),
        }
    }
}
