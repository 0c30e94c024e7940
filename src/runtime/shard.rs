//! The loop of a shard's thread: turns, commands of the control plane, and waiting when nothing happens.

use crate::snapshot::{CpCounters, Snapshot};
use crate::verify::VerifyProgress;
use crossbeam::channel::Sender;
use crossbeam::queue::ArrayQueue;
use ibid_driver::Clock;
use ibid_driver::idle::{Idle, IdleMode, Wait};
use ibid_engine::sync::OutOfSync;
use ibid_secure::Security;
use ibid_units::{CpId, Nanos, VolumeId};
use ibid_wire::disk::{Superblock, VolumeIdentity};
use std::sync::Arc;

/// What a node does for its pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Takes writes.
    Source,
    /// Takes data from its source.
    Destination,
}

/// One volume of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeConfig {
    /// Capacity in 512-byte sectors.
    pub sectors: u64,
    /// The namespace's UUID.
    pub uuid: [u8; 16],
}

/// What both roles are made with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The pair.
    pub pair: [u8; 16],
    /// Slots of the log.
    pub segments: u32,
    /// Blocks of each.
    pub segment_blocks: u32,
    /// False for `durability = "memory"`.
    pub to_disk: bool,
    /// The volumes, by place.
    pub volumes: Vec<VolumeConfig>,
    /// What they hold where the node has never run: runs of blocks, as (volume, first block, blocks). The rest is known to be zero.
    pub allocated: Vec<(VolumeId, u64, u64)>,
    /// Chance, for session numbers: different at each start.
    pub seed: u64,
    /// The pair's key, and what is done to the link's frames.
    pub security: Security,
}

impl NodeConfig {
    /// The superblock a blank log device of this node gets, and that of a used one is compared with.
    pub fn superblock(&self, role: Role) -> Superblock {
        let identities: Vec<VolumeIdentity> = self
            .volumes
            .iter()
            .map(|volume| VolumeIdentity { uuid: volume.uuid, sectors: volume.sectors })
            .collect();
        let mut blank = crate::superblock::blank(
            self.pair,
            self.segments,
            self.segment_blocks,
            role == Role::Source,
            &identities,
        );
        blank.fresh = self.allocated.is_empty();
        blank
    }

    /// The out-of-sync map of this node: a source has one. Nothing is out of sync yet; recovery shows the pages that say more.
    pub fn map(&self, role: Role) -> OutOfSync {
        match role {
            Role::Source => OutOfSync::new(&self.volume_sectors()),
            Role::Destination => OutOfSync::new(&[]),
        }
    }

    pub(crate) fn volume_sectors(&self) -> Vec<u64> {
        self.volumes.iter().map(|volume| volume.sectors).collect()
    }
}

/// Commands that may wait for a shard.
pub const COMMANDS_MAX: usize = 32;

/// What the control plane wants.
#[derive(Debug)]
pub enum CommandKind {
    /// Fill this and send it back.
    Snapshot(Box<Snapshot>),
    /// Take a consistency point; answered when it is durable on both nodes.
    Cp,
    /// Begin to compare both copies of a volume. Answered at once, as the two below are, with this filled in.
    Verify {
        /// The volume.
        volume: VolumeId,
        /// What is provably wrong on one node is overwritten with the other's.
        repair: bool,
        /// Where it stands goes here.
        progress: Box<VerifyProgress>,
    },
    /// Tell how the running comparison stands, or how the last one ended.
    VerifyProgress(Box<VerifyProgress>),
    /// End the running comparison.
    VerifyStop(Box<VerifyProgress>),
    /// Stop in good order.
    Stop,
}

/// A command with the way back. The channel is bounded by its maker, so that answering takes no memory.
#[derive(Debug)]
pub struct Command {
    /// What.
    pub kind: CommandKind,
    /// Where the answer goes.
    pub reply: Sender<Reply>,
}

/// A consistency point that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpDone {
    /// The newest CP durable on both nodes now.
    pub cp: CpId,
    /// False where nothing had been written since the last.
    pub taken: bool,
    /// The chain digest there.
    pub chain: [u8; 32],
    /// What it sent, together with others that ran since the command came.
    pub counters: CpCounters,
    /// Bytes of whole frames of class CP since the command came.
    pub link_bytes: u64,
    /// Time since the command came.
    pub took: Nanos,
}

/// An answer.
#[derive(Debug)]
pub enum Reply {
    /// To `Snapshot`.
    Snapshot(Box<Snapshot>),
    /// To `Cp`.
    Cp(CpDone),
    /// To `Stop`.
    Stopping,
    /// To `Verify`, `VerifyProgress` and `VerifyStop`.
    Verify(Box<VerifyProgress>),
    /// To `Verify` where a comparison runs already; the volume that it is of.
    Verifying(VolumeId),
    /// To `VerifyProgress` and `VerifyStop` where there was no comparison since the start.
    NeverVerified,
    /// To `Verify` of a volume that there is not.
    NoSuchVolume,
    /// To `Cp` and all of `Verify…` at a destination.
    NotSource,
    /// Too many wait already.
    Busy,
}

/// How a shard ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Everything acknowledged is in the volumes of both nodes, and the superblock says so.
    Clean,
    /// It could not be brought there in time; the log holds the rest.
    Unclean,
}

/// A node of either role, as the loop drives it.
pub trait Shard {
    /// Does whatever can be done at `now`, waits for nothing; true if anything was done.
    fn turn(&mut self, now: Nanos) -> bool;
    /// Takes a command.
    fn command(&mut self, now: Nanos, command: Command);
    /// Begins to stop.
    fn begin_stop(&mut self, now: Nanos);
    /// Set once it has stopped.
    fn stopped(&self) -> Option<Stop>;
    /// Waits for something to happen, at most `span`.
    fn wait(&mut self, span: Nanos);

    /// Turns until it has stopped. Polls commands every turn.
    fn run(
        &mut self,
        clock: &mut impl Clock,
        mode: IdleMode,
        commands: &Arc<ArrayQueue<Command>>,
    ) -> Stop
    where
        Self: Sized,
    {
        let mut idle = Idle::new(mode);
        loop {
            let now = clock.now();
            let mut busy = self.turn(now);
            while let Some(command) = commands.pop() {
                busy = true;
                match command.kind {
                    CommandKind::Stop => {
                        self.begin_stop(now);
                        // Whoever asked may have gone; the stop goes on.
                        drop(command.reply.try_send(Reply::Stopping));
                    }
                    CommandKind::Snapshot(_)
                    | CommandKind::Cp
                    | CommandKind::Verify { .. }
                    | CommandKind::VerifyProgress(_)
                    | CommandKind::VerifyStop(_) => self.command(now, command),
                }
            }
            if let Some(stop) = self.stopped() {
                return stop;
            }
            match idle.after_turn(now, busy) {
                Wait::Spin => std::hint::spin_loop(),
                Wait::Yield => std::thread::yield_now(),
                Wait::Sleep(span) => self.wait(span),
            }
        }
    }
}
