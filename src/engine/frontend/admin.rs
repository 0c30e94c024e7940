//! Admin commands but for the contents of Identify data and log pages: features, asynchronous events, abort, keep alive.

use super::Frontend;
use super::command::{Verdict, no_data};
use super::connection::{Page, Phase};
use super::deadline::KATO_MS_MAX;
use ibid_wire::nvme_tcp::{
    ControllerKind, GetFeatures, GetLogPage, Identify, SetFeatures, Sqe, Status, feature, opcode,
};

/// Asynchronous event requests that are held; AERL says one less.
pub(super) const AER_MAX: usize = 4;

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
                self.reply(c, slot, page, request.offset, request.bytes as u32)
            }
            opcode::KEEP_ALIVE => {
                no_data(data)?;
                Ok(Verdict::End(Status::SUCCESS, 0))
            }
            opcode::ASYNC_EVENT_REQUEST => {
                no_data(data)?;
                let connection = &mut self.connections[c];
                if connection.slots.iter().filter(|slot| slot.phase == Phase::Held).count()
                    >= AER_MAX
                {
                    return Err(Status::AER_LIMIT_EXCEEDED);
                }
                connection.slots[usize::from(slot)].phase = Phase::Held;
                Ok(Verdict::Taken)
            }
            opcode::SET_FEATURES => {
                no_data(data)?;
                self.set_feature(k, SetFeatures::parse(sqe), sqe.nsid)
                    .map(|result| Verdict::End(Status::SUCCESS, result))
            }
            opcode::GET_FEATURES => self.get_feature(c, slot, k, sqe, data),
            opcode::ABORT if !is_discovery => {
                no_data(data)?;
                Ok(Verdict::End(Status::SUCCESS, self.abort(c, sqe)))
            }
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    /// Answers a command with a structure; it is rendered when it is sent.
    fn reply(
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

    fn set_feature(&mut self, k: usize, set: SetFeatures, nsid: u32) -> Result<u64, Status> {
        if set.save {
            return Err(Status::FEATURE_NOT_SAVEABLE);
        }
        // None of the features is per namespace; 0 and "all" mean the controller (Base 5.27).
        let per_namespace = nsid != 0 && nsid != u32::MAX;
        let queues_max = self.config.limits.io_queues_max;
        let controller = &mut self.controllers[k];
        let is_io = controller.kind == ControllerKind::Io;
        let result = match set.fid {
            feature::QUEUES if is_io => {
                // Submission and completion queues come in pairs, both 0-based; FFFFh is reserved (Base 5.27.1.5).
                let (submission, completion) = (set.value as u16, (set.value >> 16) as u16);
                if submission == u16::MAX || completion == u16::MAX {
                    return Err(Status::INVALID_FIELD);
                }
                let granted = (submission.min(completion) + 1).min(queues_max);
                controller.queues = granted;
                u64::from(granted - 1) | u64::from(granted - 1) << 16
            }
            feature::KEEP_ALIVE => {
                if set.value == 0 {
                    return Err(Status::KEEP_ALIVE_INVALID);
                }
                controller.kato_ms = set.value.min(KATO_MS_MAX);
                0
            }
            feature::ASYNC_EVENTS => {
                controller.async_events = set.value;
                0
            }
            feature::TEMPERATURE if is_io => {
                controller.temperature = set.value;
                0
            }
            feature::POWER if is_io && set.value & 0x1f == 0 => 0,
            feature::ARBITRATION
            | feature::ERROR_RECOVERY
            | feature::ATOMICITY
            | feature::HOST_ID
                if is_io =>
            {
                return Err(Status::FEATURE_NOT_CHANGEABLE);
            }
            _ => return Err(Status::INVALID_FIELD),
        };
        if per_namespace {
            return Err(Status::FEATURE_NOT_PER_NAMESPACE);
        }
        self.restart_keep_alive(k);
        Ok(result)
    }

    fn get_feature(
        &mut self,
        c: usize,
        slot: u16,
        k: usize,
        sqe: &Sqe,
        data: u32,
    ) -> Result<Verdict, Status> {
        let controller = &self.controllers[k];
        let is_io = controller.kind == ControllerKind::Io;
        let value = match GetFeatures::parse(sqe).fid {
            feature::QUEUES if is_io => {
                let last = u32::from(controller.queues - 1);
                last | last << 16
            }
            feature::KEEP_ALIVE => controller.kato_ms,
            feature::ASYNC_EVENTS => controller.async_events,
            feature::TEMPERATURE if is_io => controller.temperature,
            feature::ARBITRATION
            | feature::POWER
            | feature::ERROR_RECOVERY
            | feature::ATOMICITY
                if is_io =>
            {
                0
            }
            feature::HOST_ID => {
                // Over fabrics always the 128-bit form (EXHID, Base 5.27.1.23).
                if sqe.cdw11 & 1 == 0 {
                    return Err(Status::INVALID_FIELD);
                }
                self.outbound(sqe, data, 16)?;
                return self.reply(c, slot, Page::HostId, 0, 16);
            }
            _ => return Err(Status::INVALID_FIELD),
        };
        no_data(data)?;
        Ok(Verdict::End(Status::SUCCESS, value.into()))
    }
}
