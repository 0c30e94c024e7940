//! What a comparison of both copies of a volume has found so far: the answer to `verify` and `verify_progress`.
//! Takes numbers from the node's shard; gives a bounded, serialisable report and its text.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::text::{amount, line, span};

/// Most runs that a report lists; what is beyond is counted.
pub const UNDECIDED_RUNS_MAX: usize = 256;

/// What `verify` asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// Name of the volume.
    pub volume: String,
    /// Whether a block that is provably wrong on one node is to be overwritten with the other's.
    #[serde(default)]
    pub repair: bool,
}

/// How a comparison stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyState {
    /// It goes on.
    Running,
    /// Every block has been compared.
    Done,
    /// It ended before: the peer went away, or the node is stopping.
    Interrupted,
}

/// A run of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BlockRun {
    /// First logical block, in units of the volume's LBA.
    pub lba: u64,
    /// Number of them.
    pub blocks: u64,
}

/// What a comparison has found so far. Blocks are of 4 KiB, runs in the volume's own logical blocks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Name of the volume.
    pub volume: String,
    /// Whether it repairs.
    pub repair: bool,
    /// How it stands.
    pub state: VerifyState,
    /// Blocks to compare.
    pub blocks: u64,
    /// Blocks compared so far.
    pub compared: u64,
    /// Blocks that differed at one and the same consistency point.
    pub differing: u64,
    /// Of those, repaired on the node that was asked.
    pub repaired_here: u64,
    /// Of those, repaired on its peer.
    pub repaired_there: u64,
    /// Of those, without proof of which copy is the right one. Nothing is changed there.
    pub undecided: u64,
    /// Where the undecided lie, the first [`UNDECIDED_RUNS_MAX`] runs.
    pub undecided_runs: Vec<BlockRun>,
    /// The consistency point of the last comparison.
    pub cp: u64,
    /// How long it has taken so far.
    pub took_ns: u64,
}

impl VerifyReport {
    /// Whether both copies are known to be the same now.
    pub fn is_good(&self) -> bool {
        self.state == VerifyState::Done
            && self.differing == self.repaired_here + self.repaired_there
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            VerifyState::Running => "running",
            VerifyState::Done => "done",
            VerifyState::Interrupted => "INTERRUPTED: the peer went away, or the node stops",
        };
        line(f, "verify", &format!("{}, {state}, {}", self.volume, span(self.took_ns)))?;
        let bytes = amount(self.compared.saturating_mul(4096));
        let compared =
            format!("{} of {} blocks ({bytes}), up to cp {}", self.compared, self.blocks, self.cp);
        line(f, "compared", &compared)?;
        let found = match self.differing {
            0 => "none".to_owned(),
            count => format!(
                "{count} blocks: {} repaired here, {} at the peer, {} undecided",
                self.repaired_here, self.repaired_there, self.undecided
            ),
        };
        line(f, "differing", &found)?;
        for run in &self.undecided_runs {
            line(
                f,
                "undecided",
                &format!("LBA {} to {}", run.lba, run.lba + run.blocks.max(1) - 1),
            )?;
        }
        if self.undecided_runs.len() == UNDECIDED_RUNS_MAX {
            line(f, "undecided", "and perhaps more: the list is full")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> VerifyReport {
        VerifyReport {
            volume: "v0".into(),
            repair: true,
            state: VerifyState::Done,
            blocks: 262_144,
            compared: 262_144,
            differing: 5,
            repaired_here: 1,
            repaired_there: 2,
            undecided: 2,
            undecided_runs: vec![
                BlockRun { lba: 800, blocks: 1 },
                BlockRun { lba: 900, blocks: 1 },
            ],
            cp: 41,
            took_ns: 2_500_000_000,
        }
    }

    #[test]
    fn a_report_names_what_differs_and_is_good_only_when_nothing_is_left() {
        let mut report = sample();
        assert_eq!(
            report.to_string(),
            "\
verify    v0, done, 2.5 s
compared  262144 of 262144 blocks (1.0 GiB), up to cp 41
differing 5 blocks: 1 repaired here, 2 at the peer, 2 undecided
undecided LBA 800 to 800
undecided LBA 900 to 900
"
        );
        assert!(!report.is_good());
        (report.differing, report.undecided) = (3, 0);
        report.undecided_runs.clear();
        assert!(report.is_good());
        report.state = VerifyState::Interrupted;
        assert!(!report.is_good());
        report.undecided_runs = vec![BlockRun { lba: 1, blocks: 1 }; UNDECIDED_RUNS_MAX];
        assert!(report.to_string().contains("the list is full"));
    }
}
