//! Commands: each gets a slot, a verdict, and a place for its data. Which queue takes which command is decided here; what a command
//! means is in `fabrics`, `admin` and `io`; how two are fused in `fused`.

use super::Frontend;
use super::connection::{Body, First, Phase, State, To};
use ibid_wire::nvme_tcp::{Fuse, Sqe, Status, fctype, opcode, sgl_kind};

/// What is to be done with a command whose header has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    /// It ends with this; data that came along is thrown away.
    End(Status, u64),
    /// Its small data is in the capsule and is needed first.
    AwaitData,
    /// A write or compare whose data is in the capsule.
    WriteInline,
    /// The slot's phase says the rest; there is no data to come, or an R2T will ask for it.
    Taken,
}

impl Frontend {
    /// A command capsule with `data` bytes behind its header.
    pub(super) fn command(&mut self, c: usize, sqe: &Sqe, data: u32, digest: bool) {
        let connection = &mut self.connections[c];
        connection.drop_held(sqe.cid);
        let (slot, is_new) = connection.take_slot(sqe.cid);
        // Not free any more, whatever comes of it.
        connection.slots[usize::from(slot)].phase =
            Phase::Responding { status: Status::INTERNAL_ERROR, result: 0 };
        let verdict = self.judge_fuse(c, sqe, is_new).and_then(|first| {
            if !is_new {
                return Err(Status::CID_CONFLICT);
            }
            let judged = self.judge(c, slot, sqe, data, first);
            if judged.is_err() {
                self.miss_second(c, first);
            }
            judged
        });
        let verdict = verdict.unwrap_or_else(|status| {
            if sqe.fuse() == Fuse::First && self.fuses(c, sqe) {
                self.connections[c].first = First::Failed;
            }
            Verdict::End(status, 0)
        });
        let connection = &mut self.connections[c];
        let entry = &mut connection.slots[usize::from(slot)];
        let to = match verdict {
            Verdict::End(status, result) => {
                if data == 0 {
                    self.respond(c, slot, status, result);
                    return;
                }
                entry.phase = Phase::Draining { status };
                To::Discard
            }
            Verdict::AwaitData => {
                entry.phase = Phase::AwaitsData { sqe: *sqe };
                To::Small { total: data }
            }
            Verdict::WriteInline => To::Await,
            Verdict::Taken => {
                assert!(data == 0, "a command was taken and its data forgotten");
                return;
            }
        };
        connection.body = Some(Body { slot, to, left: data, digest, last: true, by_r2t: false });
        self.set_data_deadline(c, false);
    }

    fn judge(
        &mut self,
        c: usize,
        slot: u16,
        sqe: &Sqe,
        data: u32,
        first: First,
    ) -> Result<Verdict, Status> {
        if !sqe.uses_sgl() {
            return Err(Status::INVALID_FIELD);
        }
        let connection = &self.connections[c];
        if connection.state != State::Connected {
            return self.judge_unconnected(sqe, data);
        }
        let Some(k) = connection.controller.map(usize::from) else {
            return Err(Status::SEQUENCE_ERROR);
        };
        if connection.qid == 0 && connection.auth.is_open() {
            self.restart_keep_alive(k);
        }
        if !self.connections[c].auth.is_open() {
            return self.judge_auth(c, slot, sqe, data);
        }
        match (sqe.opcode, self.connections[c].qid) {
            (opcode::FABRICS, _) => self.judge_fabrics(c, slot, k, sqe, data),
            (_, 0) => self.judge_admin(c, slot, k, sqe, data),
            (_, _) => self.judge_io(c, slot, k, sqe, data, first),
        }
    }

    /// Small data of a command is in `small`.
    pub(super) fn command_data(&mut self, c: usize, slot: u16, sqe: &Sqe, bytes: usize) {
        match sqe.opcode {
            opcode::FABRICS if sqe.fctype() == fctype::AUTH_SEND => {
                self.auth_message(c, slot, bytes)
            }
            opcode::FABRICS => {
                let (status, result) = self.connect(c, sqe);
                self.respond(c, slot, status, result);
            }
            // The same number means two commands: which queue decides.
            opcode::SET_FEATURES if self.connections[c].qid == 0 => self.set_host_behavior(c, slot),
            opcode::DATASET_MANAGEMENT => self.deallocate(c, slot, sqe, bytes),
            other => unreachable!("opcode {other:#x} takes no small data"),
        }
    }

    /// Whether the data of a command that sends some is where it says, and as long as it must be. `true`: in the capsule.
    pub(super) fn inbound(&self, sqe: &Sqe, data: u32, bytes: u64) -> Result<bool, Status> {
        if sqe.sgl.length > self.config.limits.transfer_bytes_max {
            return Err(Status::INVALID_FIELD);
        }
        let in_capsule = match sqe.sgl.kind {
            sgl_kind::IN_CAPSULE if sqe.sgl.address != 0 => return Err(Status::SGL_OFFSET_INVALID),
            sgl_kind::IN_CAPSULE => true,
            sgl_kind::TRANSPORT => false,
            _ => return Err(Status::SGL_TYPE_INVALID),
        };
        if data != if in_capsule { sqe.sgl.length } else { 0 } {
            return Err(Status::SGL_LENGTH_INVALID);
        }
        if u64::from(sqe.sgl.length) == bytes {
            Ok(in_capsule)
        } else {
            Err(Status::SGL_LENGTH_INVALID)
        }
    }

    /// Whether a command that gets data back gets it by data PDUs, with room for `bytes`.
    pub(super) fn outbound(&self, sqe: &Sqe, data: u32, bytes: u64) -> Result<(), Status> {
        no_data(data)?;
        if sqe.sgl.length > self.config.limits.transfer_bytes_max {
            return Err(Status::INVALID_FIELD);
        }
        match sqe.sgl.kind {
            sgl_kind::TRANSPORT if u64::from(sqe.sgl.length) >= bytes => Ok(()),
            sgl_kind::TRANSPORT => Err(Status::SGL_LENGTH_INVALID),
            sgl_kind::IN_CAPSULE => Err(Status::INVALID_FIELD),
            _ => Err(Status::SGL_TYPE_INVALID),
        }
    }
}

/// Refuses data with a command that takes none.
pub(super) fn no_data(data: u32) -> Result<(), Status> {
    if data == 0 { Ok(()) } else { Err(Status::INVALID_FIELD) }
}
