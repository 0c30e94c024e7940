//! Admin commands: which there are, and which file knows more. Abort is here.

use super::Frontend;
use super::command::{Verdict, no_data};
use super::connection::{Page, Phase};
use ibid_wire::nvme_tcp::{ControllerKind, GetLogPage, Identify, Sqe, Status, opcode};

impl Frontend {
    pub(super) fn judge_admin(
        &mut self,
        c: usize,
        slot: u16,
        k: usize,
        sqe: &Sqe,
        data: u32,
    ) -> Result<Verdict, Status> {
        let controller = &self.controllers[k];
        if !controller.serves() {
            return Err(Status::SEQUENCE_ERROR);
        }
        let is_discovery = controller.kind == ControllerKind::Discovery;
        match sqe.opcode {
            opcode::IDENTIFY => {
                let request = Identify::parse(sqe);
                self.outbound(sqe, data, ibid_wire::nvme_tcp::IDENTIFY_BYTES as u64)?;
                let page = self.judge_identify(k, request)?;
                self.reply(
                    c,
                    slot,
                    page,
                    0,
                    sqe.sgl.length.min(ibid_wire::nvme_tcp::IDENTIFY_BYTES as u32),
                )
            }
            opcode::GET_LOG_PAGE => {
                let request = GetLogPage::parse(sqe);
                let page = self.judge_log(k, &request)?;
                self.outbound(sqe, data, request.bytes)?;
                if !request.retain {
                    self.clear_events(k, request.lid);
                }
                self.reply(c, slot, page, request.offset, request.bytes as u32)
            }
            opcode::KEEP_ALIVE => {
                no_data(data)?;
                Ok(Verdict::End(Status::SUCCESS, 0))
            }
            opcode::ASYNC_EVENT_REQUEST => {
                no_data(data)?;
                self.hold_request(c, slot, k)?;
                Ok(Verdict::Taken)
            }
            opcode::SET_FEATURES => self.judge_set_features(k, sqe, data),
            opcode::GET_FEATURES => self.get_feature(c, slot, k, sqe, data),
            opcode::ABORT if !is_discovery => {
                no_data(data)?;
                Ok(Verdict::End(Status::SUCCESS, self.abort(c, sqe)))
            }
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    /// Answers a command with a structure; it is rendered when it is sent.
    pub(super) fn reply(
        &mut self,
        c: usize,
        slot: u16,
        page: Page,
        at: u64,
        bytes: u32,
    ) -> Result<Verdict, Status> {
        self.connections[c].slots[usize::from(slot)].phase =
            Phase::Reply { page, at, bytes, sent: 0 };
        self.enqueue(c, slot);
        Ok(Verdict::Taken)
    }

    /// Abort (Base 5.1): an asynchronous event request can be aborted; any other command is as good as done. Bit 0 of the result says
    /// "not aborted".
    fn abort(&mut self, c: usize, sqe: &Sqe) -> u64 {
        let (sqid, cid) = (sqe.cdw10 as u16, (sqe.cdw10 >> 16) as u16);
        let held = self.connections[c]
            .slots
            .iter()
            .position(|slot| slot.phase == Phase::Held && slot.cid == cid);
        match held {
            Some(slot) if sqid == 0 => {
                self.respond(c, slot as u16, Status::ABORTED_BY_REQUEST, 0);
                0
            }
            _ => 1,
        }
    }
}
