//! An operator that compares both copies of a volume, and what rots beneath him.

use crate::world::{DESTINATION, SOURCE, World};
use ibid_runtime::{CommandKind, Reply, VerifyProgress, VerifyState};
use ibid_units::VolumeId;
use std::collections::BTreeSet;

impl World {
    /// Asks a node to begin.
    pub fn begin_verify(&mut self, side: usize, volume: usize, repair: bool) -> Reply {
        let progress = Box::new(VerifyProgress::with_room());
        let volume = VolumeId::new(volume as u16);
        let answer = self.ask(side, CommandKind::Verify { volume, repair, progress });
        answer.try_recv().expect("an answer at once")
    }

    /// How it stands.
    pub fn verify_progress(&mut self) -> VerifyProgress {
        let room = Box::new(VerifyProgress::with_room());
        match self.ask(SOURCE, CommandKind::VerifyProgress(room)).try_recv() {
            Ok(Reply::Verify(progress)) => *progress,
            other => panic!("asked how a comparison stands, got {other:?}"),
        }
    }

    /// Ends it.
    pub fn stop_verify(&mut self) -> VerifyProgress {
        let room = Box::new(VerifyProgress::with_room());
        match self.ask(SOURCE, CommandKind::VerifyStop(room)).try_recv() {
            Ok(Reply::Verify(progress)) => *progress,
            other => panic!("asked to end a comparison, got {other:?}"),
        }
    }

    /// Compares a volume to the end, while no client does anything.
    pub fn verify(&mut self, volume: usize, repair: bool) -> VerifyProgress {
        let begun = self.begin_verify(SOURCE, volume, repair);
        assert!(matches!(begun, Reply::Verify(_)), "asked for a comparison, got {begun:?}");
        let mut progress = self.verify_progress();
        self.run_until("the comparison", |world| {
            progress = world.verify_progress();
            progress.state != VerifyState::Running
        });
        progress
    }

    /// A block of a volume of one node rots at rest.
    pub fn rot_block(&mut self, side: usize, volume: usize, block: u64) {
        let mut files = self.files[side].borrow_mut();
        files.rot(volume + 1, block as usize * 4096, 4096, |bytes| {
            bytes[77] ^= 1;
            bytes[4000] ^= 128;
        });
    }

    /// A block of the destination's volumes rots, which one is chance (D10). Noted in `rotten` for [`World::settle_rot`]. The source's
    /// stay as they are: nothing but a comparison sees rot, and clients read from there.
    pub fn rot_any(&mut self, rotten: &mut BTreeSet<(usize, u64)>, blocks: u64) {
        let volume = self.random.below(self.config.volumes.len() as u64) as usize;
        let block = self.random.below(blocks.min(self.config.volumes[volume].0 / 8));
        self.rot_block(DESTINATION, volume, block);
        rotten.insert((volume, block));
    }

    /// The operator's last act before two copies are compared byte for byte: what differs must be something that rotted; it is repaired
    /// where that can be proved, and otherwise listed, and put right by hand. Both nodes run, in sync or on the way there, and no client
    /// does anything. Gives how many were repaired, and how many listed.
    pub fn settle_rot(&mut self, rotten: &BTreeSet<(usize, u64)>) -> (u64, u64) {
        let (mut all_repaired, mut all_listed) = (0, 0);
        for volume in 0..self.config.volumes.len() {
            let found = self.verify(volume, true);
            assert_eq!(found.state, VerifyState::Done, "{found:?}");
            let repaired = found.repaired_here + found.repaired_there;
            all_repaired += repaired;
            all_listed += found.undecided;
            assert_eq!(found.differing, repaired + found.undecided, "VFY-4: {found:?}");
            assert_eq!(found.repaired_here, 0, "VFY-2: what is right was overwritten: {found:?}");
            for block in found.undecided_runs.iter().flat_map(|(first, n)| *first..first + n) {
                assert!(
                    rotten.contains(&(volume, block)),
                    "VFY-1: block {block} of volume {volume} differs, and did not rot"
                );
                let at = block as usize * 4096;
                let right = self.files[SOURCE].borrow().live(volume + 1)[at..][..4096].to_vec();
                self.files[DESTINATION].borrow_mut().rot(volume + 1, at, 4096, |bytes| {
                    bytes.copy_from_slice(&right);
                });
            }
        }
        (all_repaired, all_listed)
    }
}
