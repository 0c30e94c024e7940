//! Fused operations: two commands, one behind the other on one I/O queue, that are one (Base 3.4.2). The only one is Compare and Write
//! (NVM 2.1.4, 3.2.1): the write takes effect if the compare finds no difference, with nothing in between. That it is so is the
//! shard's work; here it is seen to that the two belong together, and that one without the other ends as it must (C28).

use super::connection::First;
use super::{CommandId, Event, Frontend};
use ibid_wire::nvme_tcp::{Fuse, Io, Sqe, Status, opcode};

impl Frontend {
    /// Whether a command is on a queue whose commands may be fused.
    pub(super) fn fuses(&self, c: usize, sqe: &Sqe) -> bool {
        let connection = &self.connections[c];
        connection.controller.is_some()
            && connection.auth.is_open()
            && connection.qid != 0
            && sqe.opcode != opcode::FABRICS
    }

    /// Looks at the fuse bits of a command, whatever else becomes of it: a pair of which the first command has come is decided now.
    /// Gives that first command to a second one.
    pub(super) fn judge_fuse(
        &mut self,
        c: usize,
        sqe: &Sqe,
        is_new: bool,
    ) -> Result<First, Status> {
        let first = core::mem::replace(&mut self.connections[c].first, First::None);
        if !self.connections[c].auth.is_open() {
            // Nothing is taken yet, however it is fused.
            return Ok(First::None);
        }
        let fuse = sqe.fuse();
        let is_pair = fuse == Fuse::Second && sqe.opcode == opcode::WRITE && is_new;
        if !is_pair {
            self.miss_second(c, first);
        }
        if first != First::None {
            // It is owed no longer.
            self.set_data_deadline(c, false);
        }
        if fuse != Fuse::Not && !self.fuses(c, sqe) {
            return Err(Status::INVALID_FIELD);
        }
        match (fuse, first) {
            (Fuse::Not, _) => Ok(First::None),
            (Fuse::First, _) if sqe.opcode == opcode::COMPARE => Ok(First::None),
            (Fuse::Second, First::Taken { .. }) if is_pair => Ok(first),
            (Fuse::Second, First::Failed) => Err(Status::ABORTED_FAILED_FUSED),
            (Fuse::First | Fuse::Second, _) => Err(Status::ABORTED_MISSING_FUSED),
            (Fuse::Reserved, _) => Err(Status::INVALID_FIELD),
        }
    }

    /// The second command of a pair did not come next, or was refused: the first one ends, and the shard forgets it.
    pub(super) fn miss_second(&mut self, c: usize, first: First) {
        self.end_first(c, first, Status::ABORTED_MISSING_FUSED);
    }

    /// The queue takes no second command any more.
    pub(super) fn drop_first(&mut self, c: usize) {
        let first = core::mem::replace(&mut self.connections[c].first, First::None);
        self.miss_second(c, first);
        self.set_data_deadline(c, false);
    }

    fn end_first(&mut self, c: usize, first: First, status: Status) {
        let Some(cmd) = self.first_command(c, first) else {
            return;
        };
        self.push(Event::Abandoned { cmd });
        self.complete(cmd, status);
    }

    /// The first command of a pair, as long as the shard has not ended it.
    fn first_command(&self, c: usize, first: First) -> Option<CommandId> {
        let First::Taken { slot, generation, .. } = first else {
            return None;
        };
        let entry = &self.connections[c].slots[usize::from(slot)];
        let lives = entry.generation == generation && entry.phase.is_at_shard();
        lives.then_some(CommandId { conn: c as u16, slot, generation })
    }

    /// A compare that is the first of a pair was taken.
    pub(super) fn await_second(&mut self, c: usize, cmd: CommandId, nsid: u32, io: &Io) {
        let CommandId { slot, generation, .. } = cmd;
        let Io { slba, blocks, .. } = *io;
        self.connections[c].first = First::Taken { slot, generation, nsid, slba, blocks };
        self.set_data_deadline(c, false);
    }

    /// The compare that a write is fused with. Both must name one range; a compare that has failed meanwhile fails the write.
    pub(super) fn join_first(
        &mut self,
        c: usize,
        first: First,
        own_nsid: u32,
        io: &Io,
    ) -> Result<Option<CommandId>, Status> {
        let First::Taken { nsid, slba, blocks, .. } = first else {
            return Ok(None);
        };
        let cmd = self.first_command(c, first).ok_or(Status::ABORTED_FAILED_FUSED)?;
        if (nsid, slba, blocks) != (own_nsid, io.slba, io.blocks) {
            self.end_first(c, first, Status::INVALID_FIELD);
            return Err(Status::INVALID_FIELD);
        }
        Ok(Some(cmd))
    }
}
