//! What whoever runs the pair does: looks at the nodes, starts one again that has failed or ended, and writes down what it saw.

use crate::trace::Place;
use crate::{Crash, DESTINATION, SOURCE, World};
use ibid_runtime::{Fault, StartRefused};
use std::collections::BTreeSet;

/// How often, in turns, the operator looks.
const LOOK_EVERY: u64 = 16;

/// What was seen of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Seen {
    /// Its log device failed: it says so and takes part in nothing.
    LogFault,
    /// Its volume fails and is tried again.
    VolumeRetry,
    /// It did not start: its device gives errors.
    RefusedIo,
    /// It did not start: what lies on its log device is no superblock.
    RefusedForeign,
    /// It did not start: log and superblock are of different times.
    RefusedLog,
    /// It did not start: the log is of a later epoch than both superblocks.
    RefusedEpoch,
    /// Recovery found a bad superblock copy beside a good one.
    SuperblockBad,
    /// Recovery found that the log lacks entries that were acknowledged.
    Damaged,
    /// Recovery found a torn tail.
    Torn,
    /// Recovery could not read pages of the map.
    MapUnreadable,
}

/// What was seen of both.
#[derive(Debug, Default)]
pub struct Operator {
    turns: u64,
    pub seen: [BTreeSet<Seen>; 2],
    pub restarts: u64,
}

impl Operator {
    /// Looks now and then.
    pub fn turn(&mut self, world: &mut World) {
        self.turns += 1;
        if self.turns.is_multiple_of(LOOK_EVERY) {
            self.look(world);
        }
    }

    fn look(&mut self, world: &mut World) {
        for side in [DESTINATION, SOURCE] {
            if world.is_up(side) {
                self.judge(world, side);
            }
            if let Some(refused) = &world.refused[side] {
                self.seen[side].insert(match refused {
                    StartRefused::Io(_) => Seen::RefusedIo,
                    StartRefused::Foreign(_) => Seen::RefusedForeign,
                    StartRefused::Log(_) => Seen::RefusedLog,
                    StartRefused::Epoch { .. } => Seen::RefusedEpoch,
                    StartRefused::Pair
                    | StartRefused::Geometry(..)
                    | StartRefused::Volumes
                    | StartRefused::Role(_)
                    | StartRefused::Version(_) => panic!("side {side} does not start: {refused}"),
                });
            }
            if !world.runs(side) {
                world.trace.note(Place::Operator, "starts side", side as u64);
                self.restarts += 1;
                world.start(side);
            }
        }
    }

    fn judge(&mut self, world: &mut World, side: usize) {
        let shot = world.snapshot(side);
        let seen = &mut self.seen[side];
        if shot.volume_retry.is_some() {
            seen.insert(Seen::VolumeRetry);
        }
        if let Some(found) = shot.recovery {
            let all = [
                (found.superblock_copies_bad > 0, Seen::SuperblockBad),
                (found.damaged, Seen::Damaged),
                (found.torn, Seen::Torn),
                (found.map_pages_unreadable > 0, Seen::MapUnreadable),
            ];
            seen.extend(all.into_iter().filter(|(is_so, _)| *is_so).map(|(_, seen)| seen));
        }
        match shot.fault {
            None => {}
            Some(Fault::Log(_)) => {
                seen.insert(Seen::LogFault);
                world.trace.note(Place::Operator, "restarts side", side as u64);
                world.crash(side, Crash::Kill);
            }
            Some(Fault::Memory) => panic!("side {side} has lost a page of its log"),
            Some(fault @ (Fault::Peer | Fault::Chain)) => {
                panic!("I13: side {side} finds that its peer contradicts itself: {fault:?}")
            }
        }
    }
}
