//! What a comparison of both copies of a volume has found: plain numbers, in memory that whoever asks brings along.

use ibid_units::{CpId, Nanos, VolumeId};

/// Runs of undecided blocks that are listed; what is beyond is counted.
pub const UNDECIDED_RUNS_MAX: usize = 256;

/// How a comparison stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VerifyState {
    /// It goes on.
    Running,
    /// Every block has been compared.
    Done,
    /// It ended before: the peer went away, somebody ended it, or the node stops or has failed.
    Interrupted,
}

/// A comparison at one moment. Blocks are of 4 KiB.
#[derive(Clone, Debug)]
pub struct VerifyProgress {
    /// The volume.
    pub volume: VolumeId,
    /// Blocks that are provably wrong on one node are overwritten with the other's.
    pub repair: bool,
    /// How it stands.
    pub state: VerifyState,
    /// Blocks to compare.
    pub blocks: u64,
    /// Blocks compared.
    pub compared: u64,
    /// Blocks that differed, or could not be read on one node.
    pub differing: u64,
    /// Of those, provably wrong on this node …
    pub wrong_here: u64,
    /// … and on its peer.
    pub wrong_there: u64,
    /// Repaired on this node, and found alike afterwards.
    pub repaired_here: u64,
    /// Repaired on the peer, and found alike afterwards.
    pub repaired_there: u64,
    /// Without proof of which is right, or unlike after they were repaired.
    pub undecided: u64,
    /// Where the undecided lie: (first block, blocks) of the first runs.
    pub undecided_runs: Vec<(u64, u64)>,
    /// The consistency point of the last comparison.
    pub cp: CpId,
    /// Time so far.
    pub took: Nanos,
}

impl VerifyProgress {
    const EMPTY: Self = Self {
        volume: VolumeId::new(0),
        repair: false,
        state: VerifyState::Interrupted,
        blocks: 0,
        compared: 0,
        differing: 0,
        wrong_here: 0,
        wrong_there: 0,
        repaired_here: 0,
        repaired_there: 0,
        undecided: 0,
        undecided_runs: Vec::new(),
        cp: CpId::new(0),
        took: Nanos::ZERO,
    };

    /// An empty one with all the memory it will need.
    pub fn with_room() -> Self {
        Self { undecided_runs: Vec::with_capacity(UNDECIDED_RUNS_MAX), ..Self::EMPTY }
    }

    /// Begins anew.
    pub(crate) fn start(&mut self, volume: VolumeId, blocks: u64, repair: bool) {
        let mut undecided_runs = std::mem::take(&mut self.undecided_runs);
        undecided_runs.clear();
        let state = VerifyState::Running;
        *self = Self { volume, repair, blocks, undecided_runs, state, ..Self::EMPTY };
    }

    /// Takes another's numbers without taking memory.
    pub(crate) fn set_to(&mut self, other: &Self) {
        let mut undecided_runs = std::mem::take(&mut self.undecided_runs);
        undecided_runs.clear();
        // Where whoever asked brought less room, it is told of fewer runs.
        let runs = undecided_runs.capacity().min(other.undecided_runs.len());
        undecided_runs.extend_from_slice(&other.undecided_runs[..runs]);
        let Self {
            volume,
            repair,
            state,
            blocks,
            compared,
            differing,
            wrong_here,
            wrong_there,
            ..
        } = *other;
        let Self { repaired_here, repaired_there, undecided, cp, took, .. } = *other;
        *self = Self {
            volume,
            repair,
            state,
            blocks,
            compared,
            differing,
            wrong_here,
            wrong_there,
            repaired_here,
            repaired_there,
            undecided,
            undecided_runs,
            cp,
            took,
        };
    }

    /// A block that is undecided.
    pub(crate) fn note_undecided(&mut self, block: u64) {
        self.undecided += 1;
        let joins = |run: &&mut (u64, u64)| run.0 + run.1 == block;
        if let Some((_, blocks)) = self.undecided_runs.last_mut().filter(joins) {
            *blocks += 1;
        } else if self.undecided_runs.len() < UNDECIDED_RUNS_MAX {
            self.undecided_runs.push((block, 1));
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state == VerifyState::Running
    }
}
